"""What goes into a query and what comes out, whichever database answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Value = str | int | float | bytes | None
Parameters = Sequence[Value] | Mapping[str, Value]


@dataclass
class Answer:
    """What a query gives.

    A TEXT that is not UTF-8 has its bytes as `\\x..`.

    Attributes:
        columns: the names of its columns.
        rows: its rows, as they come.
        truncated: whether there were more rows than asked for; known when the rows have been read.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[Value, ...]]
    truncated: bool = False
