"""What there is to measure, and with whom: python -m tilegrad.bench --list"""

from __future__ import annotations

from tilegrad.bench import table
from tilegrad.bench.inputs import DTYPES
from tilegrad.bench.ops import OPS
from tilegrad.bench.ops.op import Op
from tilegrad.bench.programs import PROGRAMS
from tilegrad.bench.providers import PROVIDERS


def text() -> str:
    """All of it, op by op."""
    lines = ["ops (a shape with * also under --quick)"]
    for op in (*OPS.values(), *PROGRAMS.values()):
        lines.append(f"  {op.name}" + (f"  --shapes {','.join(op.axes)}" if op.axes else ""))
        if isinstance(op, Op):
            lines.append(f"    dtypes: {', '.join(op.dtypes)}" + _precisions(op))
            for v in op.variants:
                lines.append(f"    {v.name}({', '.join(v.names)}): {', '.join(v.modes)}")
        for device, sizes in (("cpu", op.cpu), ("cuda", op.cuda)):
            for s in sizes if op.axes else ():
                lines.append(f"    {device:4} {'*' if s.quick else ' '} {table.shape([*s.shape]):26} {s.reason}")
    lines.append(f"dtypes: {', '.join(DTYPES)}")
    lines.append("providers")
    for name, provider in PROVIDERS.items():
        for device in ("cpu", "cuda"):
            lines.append(f"  {name:14} {device:4} {provider.missing(device) or 'can be measured'}")
    return "\n".join(lines)


def _precisions(op: Op) -> str:
    return f"; of float32 on a GPU: {', '.join(op.precisions)}" if len(op.precisions) > 1 else ""
