"""The system calls of a process, read from what strace writes with `-f -y -xx -s …`.

Every text in such a log is in hexadecimal, so that it can be taken apart by splitting it. What the calls mean for a
disk is `tests.robustness.crash.disk`'s.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

CHANGES = (
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "ftruncate",
    "truncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "syncfs",
    "sync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "mknod",
    "mknodat",
    "chmod",
    "fchmod",
    "fchmodat",
    "utimensat",
    "copy_file_range",
    "sendfile",
)
"""Calls that change files or sync them. `openat`, which makes some, is traced too."""

LOOKS = ("openat", "dup", "dup2", "dup3", "fcntl", "close", "lseek")
"""Calls that say which descriptor is which file, and where it stands."""

_LINE = re.compile(r"(?P<pid>\d+) +(?P<rest>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+|\?)(?P<path><[^>]*>(\(deleted\))?)?.*")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_TEXT = re.compile(r'^"(?P<hex>(\\x[0-9a-f]{2})*)"$')
_PLACE = re.compile(r"^(?P<number>-?\d+|AT_FDCWD)(<(?P<hex>(\\x[0-9a-f]{2})*)>)?(\(deleted\))?$")


class Descriptor(NamedTuple):
    """A file descriptor among the arguments of a call, and the path that it has at that moment; "" if it has none."""

    number: int
    path: str


class Call(NamedTuple):
    """A system call that succeeded, or that nobody saw the end of.

    Attributes:
        name: its name.
        arguments: descriptors, texts as bytes, and everything else as it is printed.
        result: what it returned; -1 when it failed, or when the process was killed in it.
        path: of the descriptor that it returned.
        began: how many calls had ended when it began.
        order: it is the `order`-th call of this name in its thread, from 1.
    """

    name: str
    arguments: tuple[Descriptor | bytes | str, ...]
    result: int
    path: str
    began: int
    order: int


def why_untraceable() -> str | None:
    """Say why strace cannot be used here, or return `None`."""
    if shutil.which("strace") is None:
        return "strace is not installed, which kills at chosen system calls and records them"
    probe = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return None if probe.returncode == 0 else f"strace may not trace here: {probe.stderr.strip()}"


@contextmanager
def traced(pid: int, log: Path, *, calls: tuple[str, ...], kill_at: tuple[str, int] | None = None) -> Iterator[None]:
    """Trace a process, which waits meanwhile, from now on until it ends; perhaps until it is killed in a call."""
    shown = "0" if kill_at else "100000000"
    options = ["-f", "-y", "-xx", "-s", shown, "-e", f"trace={','.join(calls)}", "-e", "signal=none"]
    if kill_at is not None:
        options += ["-e", f"inject={kill_at[0]}:signal=SIGKILL:when={kill_at[1]}"]
    tracer = subprocess.Popen(["strace", *options, "-o", log, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        said = tracer.stderr.readline()
        assert "attached" in said, said
        yield
        tracer.communicate(timeout=600)
    finally:
        tracer.kill()
        tracer.wait()
        tracer.stderr.close()


def read(log: Path) -> list[Call]:
    """Return the calls of a log, in the order in which they ended."""
    found: list[Call] = []
    orders: dict[tuple[str, str], int] = {}
    unfinished: dict[str, tuple[str, int, int]] = {}
    for line in log.read_text().splitlines():
        match = _LINE.match(line)
        assert match is not None, line
        pid, rest = match["pid"], match["rest"]
        if rest.startswith(("+++", "---", "strace:")):
            continue
        began = len(found)
        resumed = _RESUMED.match(rest)
        if resumed is not None:
            start, began, order = unfinished.pop(pid)
            rest = start + resumed["rest"]
        else:
            name = rest.partition("(")[0]
            order = orders[pid, name] = orders.get((pid, name), 0) + 1
            if rest.endswith("<unfinished ...>"):
                unfinished[pid] = (rest.removesuffix("<unfinished ...>").rstrip(), began, order)
                continue
        call = _CALL.fullmatch(rest)
        assert call is not None, rest[:300]
        arguments = tuple(_argument(text) for text in _split(call["arguments"]))
        result = -1 if call["result"] == "?" else int(call["result"])
        place = _argument(f"{call['result']}{call['path']}") if call["path"] else None
        path = place.path if isinstance(place, Descriptor) else ""
        found.append(Call(call["name"], arguments, result, path, began, order))
    return found


def _split(arguments: str) -> list[str]:
    """Split at the commas that are not inside brackets."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(arguments):
        if character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(arguments[start:at].strip())
            start = at + 1
    return [*parts, arguments[start:].strip()]


def _argument(text: str) -> Descriptor | bytes | str:
    match = _TEXT.match(text)
    if match is not None:
        return _bytes(match["hex"])
    match = _PLACE.match(text)
    if match is not None and match["hex"] is not None:
        number = -100 if match["number"] == "AT_FDCWD" else int(match["number"])
        return Descriptor(number, "" if text.endswith("(deleted)") else _bytes(match["hex"]).decode())
    return text


def _bytes(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))
