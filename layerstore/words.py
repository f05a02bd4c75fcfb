"""How values read for people, on a terminal and on a page: times, sizes, digests, numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1)
_SHOWN = 12
_has_controls = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search


def time_text(time_ns: int) -> str:
    """Return a Unix time in nanoseconds as ISO 8601 text in UTC: `2026-11-26T21:43:11.02529397Z`, zeros cut."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    text = (_EPOCH + timedelta(seconds=seconds)).isoformat()
    return f"{text}.{f'{rest:09}'.rstrip('0')}Z" if rest else f"{text}Z"


def utc(time_ns: int | None) -> str:
    """Return a time for people, to the second."""
    if time_ns is None:
        return "-"
    text = time_text(time_ns)
    return f"{text[:10]} {text[11:19]} UTC"


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


def duration(seconds: float) -> str:
    """Return a time that passes, in the unit that it fills."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, round(seconds))} s"


def near(name: str, known: Iterable[str], mark: str = "") -> str:
    """Return what to add to an error about an unknown name: `; did you mean …?`, or nothing if none is like it."""
    from difflib import get_close_matches  # noqa: PLC0415  # for who has mistyped only

    found = get_close_matches(name, list(known), n=1)
    return f"; did you mean {mark}{found[0]}?" if found else ""


def text_of(value: bytes) -> str | None:
    """Return the text that a BLOB is: UTF-8 without control characters but ends of lines and tabs; or `None`."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if _has_controls(text) else text


def readable(value: Any) -> Any:
    """Return a value without bytes: a BLOB is its text, or `x'…'` in hex if it is none."""
    if not isinstance(value, bytes):
        return value
    text = text_of(value)
    return f"x'{value.hex()}'" if text is None else text


def no_temporary(reason: str) -> str:
    """Return what to say of a directory in which temporary data cannot be written."""
    return f"temporary data cannot be written here: {reason}; set TMPDIR to a directory with free space"
