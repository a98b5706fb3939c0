"""Small HTML for notebooks. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

MOST = 8  # rows and columns of an array that are shown


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table with a line of headings."""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return (
        f"<table><thead><tr>{''.join(f'<th>{escape(x)}</th>' for x in head)}</tr></thead><tbody>{body}</tbody></table>"
    )


def text(line: str) -> str:
    """A line of code."""
    return f"<div><code>{escape(line)}</code></div>"


def tree(title: str, children: Sequence[str]) -> str:
    """What opens and closes at a click, with these within it; a plain line where there are none."""
    if not children:
        return text(title)
    inner = "".join(f'<div style="margin-left:1.5em">{child}</div>' for child in children)
    return f"<details open><summary><code>{escape(title)}</code></summary>{inner}</details>"


def corner(array: Any) -> tuple[Any, str]:
    """The part of an array that is shown, of at most two dimensions and MOST along each, and what is written above it
    where that is not all of an array of more dimensions.
    """
    front = (0,) * max(0, array.ndim - 2) if array.size else ()
    part = array[front] if front else array
    label = f"[{', '.join([*map(str, front), ':', ':'])}]" if front else ""
    return part[(*(slice(MOST),) * part.ndim, ...)], label


def numbers(part: np.ndarray, shape: Sequence[int]) -> str:
    """A corner as a table; dots stand for what the array, whose last axes have that shape, has beyond it."""
    lines = [[number(x) for x in line] for line in np.atleast_2d(part)]
    if shape and shape[-1] > MOST:
        for line in lines:
            line.append("\u2026")
    if len(shape) > 1 and shape[-2] > MOST:
        lines.append(["\u22ee"] * len(lines[0]))
    rows = "".join(f"<tr>{''.join(f'<td>{escape(x)}</td>' for x in line)}</tr>" for line in lines)
    return f"<table><tbody>{rows}</tbody></table>"


def number(x: Any) -> str:
    """Short."""
    value = x.item() if hasattr(x, "item") else x
    return str(value) if isinstance(value, (bool, int)) else f"{float(value):.4g}"
