"""Rounds: sides that take turns, so that a machine that slows down slows all of them down."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Side = Callable[[int], float]
"""Do the part of one side in a round, given the round's number; return the seconds of one operation.

The side looks at the clock itself, so that what it prepares and clears away does not count.
"""


@dataclass(frozen=True, slots=True)
class Times:
    """The seconds of one operation, of each side in each round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, side: str) -> float:
        """Return the median of a side's rounds."""
        return statistics.median(self.seconds[side])

    def ratio(self, side: str, base: str) -> float:
        """Return the median of the ratios of two sides within each round.

        Not the ratio of the medians: those may come from different rounds, of a machine that was busier in one.
        """
        pairs = zip(self.seconds[side], self.seconds[base], strict=True)
        return statistics.median(one / other for one, other in pairs)


def in_turn(sides: Mapping[str, Side], rounds: int, *, warm_up: bool = True) -> Times:
    """Let all sides take turns for so many rounds, in an order that runs backwards in every other round.

    Each such pair begins one side later. Otherwise a side would always come behind the same one, and find in the
    processor's caches what that one left. The round that warms up has the number `rounds` and does not count.
    """
    names = list(sides)
    if warm_up:
        for side in sides.values():
            side(rounds)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number // 2 % len(names)
        order = names[first:] + names[:first]
        for name in order if number % 2 == 0 else reversed(order):
            seconds[name].append(sides[name](number))
    return Times(seconds)


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep the garbage collector, which comes when it wants, out of loops that last milliseconds."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
