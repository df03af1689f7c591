"""One table of a report: for a program as objects, for a person as text in 100 columns.

Knows cells and columns, not what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Literal, TypeAlias

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from train_app.evaluation.metrics import Interval

TEXT_WIDTH = 100
_FIRST_WIDTH = 18
Cell: TypeAlias = str | int | float | Interval | None


@dataclass(frozen=True)
class Section:
    """A table with a title, named by `key` in the JSON document."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> list[dict[str, object]]:
        """One object per row, by column; a number that is not finite is null."""
        return [
            {name: _as_json(cell) for name, cell in zip(self.columns, row, strict=True)}
            for row in self.rows
        ]

    def text(self) -> str:
        """For a terminal of 100 columns."""
        return table_text(self.title, self.columns, self.rows, self.notes)


def table_text(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    notes: Sequence[str] = (),
    signed_from: int | None = None,
) -> str:
    """A table as text, intervals below their estimates.

    Args:
        signed_from: rows from this one on are differences and show their sign.
    """
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    for column in columns:
        is_first = column == columns[0]
        justify: Literal["left", "right"] = "left" if is_first else "right"
        table.add_column(column, justify=justify, min_width=_FIRST_WIDTH if is_first else None)
    for place, row in enumerate(rows):
        signed = signed_from is not None and place >= signed_from
        if place == signed_from:
            table.add_section()
        table.add_row(*(_text(cell, signed) for cell in row))
    buffer = StringIO()
    console = Console(file=buffer, width=TEXT_WIDTH)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def number_text(value: float, signed: bool = False, scale: float | None = None) -> str:
    """Four figures or so, without the zero before the point; `-` for what is not finite.

    Args:
        scale: the value that decides how many decimals there are; `value` itself if left out.
    """
    if not np.isfinite(value):
        return "-"
    size = abs(value if scale is None else scale)
    n_decimals = 4 if size < 0.1 else 3 if size < 10 else 1 if size < 1_000 else 0
    text = f"{value:{'+' if signed else ''},.{n_decimals}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def _text(cell: Cell, signed: bool) -> Text:
    if cell is None:
        return Text("-")
    if isinstance(cell, str):
        return Text(cell)
    if isinstance(cell, Interval):
        low, high = (number_text(bound, signed, cell.mean) for bound in (cell.low, cell.high))
        return Text(f"{number_text(cell.mean, signed)}\n{low} {high}")
    if isinstance(cell, float):
        return Text(number_text(cell, signed))
    return Text(f"{cell:,}")


def _as_json(cell: Cell) -> object:
    if isinstance(cell, Interval):
        return {name: _finite(value) for name, value in cell.as_dict().items()}
    return _finite(cell) if isinstance(cell, float) else cell


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
