"""Who may import whom inside tilegrad: no circle among files, and no arrow from a room up to one above it.

Every import counts, in functions too; only those under `if TYPE_CHECKING:` do not, as they never run. A package's
`__init__` is a file like any other: `from tilegrad import x` is an arrow to the module x if there is one, otherwise
to tilegrad's own `__init__`.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"tilegrad": "engine", "tilegrad.kernels": "kernels", "tilegrad.bench": "bench"}

# From the ground up. A file belongs to the longest name here that its own begins with. It may import files of its room
# and of rooms on lines above this one; the rooms of one line do not know each other.
ROOMS = """
    kernels.system kernels.contract kernels.described kernels.sizes
    kernels.checks
    kernels.windows
    kernels.device kernels.cpu
    kernels.simulate
    kernels.capture
    kernels.launch
    kernels.activations kernels.sum kernels.multi_tensor
    kernels.softmax
    kernels.batch_norm kernels.clip_norm kernels.conv2d kernels.dropout kernels.layer_norm kernels.losses kernels.matmul
        kernels.optimizer kernels.pool kernels.softmax_xent kernels.take_rows
    kernels.attention kernels.bags kernels.recurrent
    kernels.backends
    kernels
    kernels.compile
    kernels.check kernels.profile kernels.timing
    copies dtypes html threads
    capture_hooks
    device
    random
    tensor
    autograd files
    ops
    create gradcheck methods
    nn.functional
    nn
    models optim
    captured
    profiling
    cuda data
    checkpoint
    .
    keras info
    __main__
    bench.ops
    bench
"""

Arrows = dict[str, set[str]]


def modules(root: Path, folders: dict[str, str]) -> dict[str, Path]:
    """Every module by its name."""
    found = {}
    for package, folder in folders.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def arrows(files: dict[str, Path]) -> Arrows:
    """What each module imports of the others."""
    return {
        name: {
            target
            for node in _running(ast.parse(path.read_text()))
            for target in _targets(node, files)
            if target in files and target != name
        }
        for name, path in files.items()
    }


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below this one, except what is only for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _running(ast.Module(child.orelse, []))
        else:
            yield child
            yield from _running(child)


def _targets(node: ast.AST, files: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"a relative import, which this test does not follow: {ast.unparse(node)}"
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            yield inside if inside in files else str(node.module)


def circle(graph: Arrows) -> list[str] | None:
    """The modules of one circle, the first again at the end, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]  # it follows arrows backwards
    return None


def upward(graph: Arrows, lines: list[list[str]]) -> set[tuple[str, str]]:
    """The arrows to a room above, or beside on the same line."""
    level = {room: height for height, rooms in enumerate(lines) for room in rooms}

    def room(module: str) -> str:
        return max((r for r in level if f"{module}.".startswith(f"{r}.")), key=len)

    return {
        (name, target)
        for name, targets in graph.items()
        for target in targets
        if room(name) != room(target) and level[room(name)] <= level[room(target)]
    }


def rooms() -> list[list[str]]:
    """ROOMS line by line, with full names; a line that is indented further continues the one before."""
    lines: list[list[str]] = []
    for line in ROOMS.strip("\n").splitlines():
        names = ["tilegrad" if name == "." else f"tilegrad.{name}" for name in line.split()]
        if line.startswith("     "):
            lines[-1] += names
        else:
            lines.append(names)
    return lines


FILES = modules(ROOT, FOLDERS)
GRAPH = arrows(FILES)


def test_no_circle_among_files():
    assert circle(GRAPH) is None


def test_no_arrow_runs_up():
    assert upward(GRAPH, rooms()) == set()


def test_every_room_exists_and_every_file_has_one():
    names = [room for line in rooms() for room in line]
    assert len(set(names)) == len(names)
    assert [room for room in names if room not in FILES] == []
    placed = tuple(f"{room}." for room in names if room != "tilegrad")  # the root holds the __init__ alone
    unplaced = [name for name in FILES if name != "tilegrad" and not f"{name}.".startswith(placed)]
    assert unplaced == [], "a new file or folder gets a place in ROOMS"


# --- the checks themselves -------------------------------------------------------------------------------------------


def written(folder: Path, **sources: str) -> Arrows:
    for name, source in {"__init__": "", **sources}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return arrows(modules(folder.parent, {"p": folder.name}))


def test_an_import_in_a_function_closes_a_circle(tmp_path):
    graph = written(tmp_path, a="from p import b", b="def f():\n    if f:\n        import p.c", c="from p.a import x")
    assert graph == {"p": set(), "p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.a"}}
    found = circle(graph)
    assert found and found[0] == found[-1] and set(found) == {"p.a", "p.b", "p.c"}
    assert all(b in graph[a] for a, b in zip(found, found[1:]))


def test_what_only_type_checkers_import_counts_not_and_its_else_does(tmp_path):
    a = """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from p.b import x
        else:
            from p import c
    """
    assert written(tmp_path, a=a, b="", c="")["p.a"] == {"p.c"}


def test_a_name_that_is_no_module_is_an_arrow_to_the_package(tmp_path):
    assert written(tmp_path, a="from p import thing")["p.a"] == {"p"}


def test_up_and_beside_are_wrong_down_and_within_are_right():
    lines = [["p.low"], ["p.left", "p.right"], ["p"]]
    graph = {"p.low.a": {"p.low.b", "p.left"}, "p.left": {"p.right.x", "p.low"}, "p.x": {"p.right"}, "p.right": {"p.x"}}
    assert upward(graph, lines) == {("p.low.a", "p.left"), ("p.left", "p.right.x"), ("p.right", "p.x")}
