"""Layers over time as a plot: SVG that is made here, as no page has a script."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from layerstore.sql.reading.totals import Timeline

WIDTH: Final = 960
HEIGHT: Final = 160
_DAY_NS: Final = 86_400 * 1_000_000_000
_MINUTE_NS: Final = 60 * 1_000_000_000
_TICKS: Final = 4
_LEAST: Final = 13


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the plot in its units, and what it stands for in words."""

    x: float
    y: float
    width: float
    height: float
    label: str
    layers: int


@dataclass(frozen=True, slots=True)
class Plot:
    """What the template draws.

    Attributes:
        bars: one for each span of time, also of none.
        top: what the height stands for.
        ticks: the times along the axis, the first at its beginning, the last at its end.
        span: how long a bar's time is, in words.
    """

    bars: tuple[Bar, ...]
    top: int
    ticks: tuple[str, ...]
    span: str


def plot(timeline: Timeline) -> Plot:
    """Lay out the bars; a few of them have empty time around them, or one would fill the plot."""
    missing = max(0, _LEAST - len(timeline.counts))
    counts = (*[0] * (missing // 2), *timeline.counts, *[0] * (missing - missing // 2))
    start_ns, width_ns = timeline.start_ns - missing // 2 * timeline.width_ns, timeline.width_ns
    top = _round_up(max(counts))
    step = WIDTH / len(counts)
    bars = []
    for number, layers in enumerate(counts):
        # Whoever is there at all can be seen.
        height = max(HEIGHT * layers / top, 2) if layers else 0
        begin = start_ns + number * width_ns
        bars.append(
            Bar(
                round((number + 0.1) * step, 2),
                round(HEIGHT - height, 2),
                round(0.8 * step, 2),
                round(height, 2),
                f"{_moment(begin, width_ns)} – {_moment(begin + width_ns, width_ns)}",
                layers,
            )
        )
    whole_ns = width_ns * len(counts)
    ticks = tuple(_moment(start_ns + whole_ns * number // (_TICKS - 1), whole_ns // _TICKS) for number in range(_TICKS))
    return Plot(tuple(bars), top, ticks, _span(width_ns // 1_000_000_000))


def _round_up(count: int) -> int:
    """Return the next number that is one digit and zeros, and can be halved if it is more than one."""
    power = 1
    while True:
        for digit in (1, 2, 4, 6, 8) if power == 1 else range(1, 10):
            if digit * power >= count:
                return digit * power
        power *= 10


def _moment(time_ns: int, step_ns: int) -> str:
    """Return a time as fine as the steps that it is shown in."""
    try:
        moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"
    if step_ns >= _DAY_NS:
        return f"{moment:%Y-%m-%d}"
    return f"{moment:%m-%d %H:%M}" if step_ns >= _MINUTE_NS else f"{moment:%H:%M:%S}"


def _span(seconds: int) -> str:
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length and seconds % length == 0:
            count = seconds // length
            return unit if count == 1 else f"{count} {unit}s"
    return "second" if seconds == 1 else f"{seconds} seconds"
