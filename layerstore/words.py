"""How values read for people, on a terminal and on a page: times, sizes, digests, numbers."""

from __future__ import annotations

from datetime import UTC, datetime

_SHOWN = 12


def utc(time_ns: int | None) -> str:
    """Return a time as UTC text, to the second."""
    if time_ns is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(time_ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"


def size(count: int) -> str:
    """Return bytes in the unit that they fill."""
    for unit, bytes_each in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count} bytes"


def short(digest: str) -> str:
    """Return the algorithm and the first twelve digits of a digest."""
    algorithm, colon, encoded = digest.partition(":")
    if len(encoded) <= _SHOWN:
        return digest
    return f"{algorithm}{colon}{encoded[:_SHOWN]}…"


def short_hmac(hmac: str) -> str:
    """Return the first eight digits of an HMAC: enough to tell two apart, too few to guess credentials by."""
    return f"{hmac[:8]}…" if len(hmac) > 8 else hmac


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
