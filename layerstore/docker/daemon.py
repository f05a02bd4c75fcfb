"""Is a Docker daemon running on a directory? Nothing of it may be removed or mended under one.

Two signs, of which one is enough: the pid file or command line of a living `dockerd` whose data root holds the
directory, and a lock on one of the databases that a daemon keeps locked in its data root, which also shows a daemon in
another PID namespace.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator

_PID_FILES = ("/run/docker.pid", "/var/run/docker.pid")
_DEFAULT_ROOT = "/var/lib/docker"
_DEFAULT_CONFIG = "/etc/docker/daemon.json"
_LOCKED = (("volumes", "metadata.db"), ("network", "files", "local-kv.db"), ("buildkit", "cache.db"))
_ROOT_OPTIONS = ("--data-root", "-g", "--graph")


def running_on(directory: str) -> str | None:
    """Say which daemon runs on a data root that holds `directory`, or return `None` when none does.

    Source: dockerd(8), `--data-root` and `--pidfile`; its volume store's and network store's files are bbolt
    databases, which lock themselves with flock(2).
    """
    directory = os.path.realpath(directory)
    for pid in _daemons():
        if _is_below(directory, _data_root(pid)):
            return f"dockerd, process {pid}"
    for root in _parents(directory):
        pid_in_root = _pid_in(os.path.join(root, "docker.pid"))
        if pid_in_root is not None and _is_alive(pid_in_root):
            return f"process {pid_in_root} of {os.path.join(root, 'docker.pid')}"
        for parts in _LOCKED:
            if _is_locked(os.path.join(root, *parts)):
                return f"a daemon that has {os.path.join(root, *parts)} locked"
    return None


def _daemons() -> Iterator[int]:
    """Yield the processes that are `dockerd`, those that a pid file names first."""
    named = {pid for pid in map(_pid_in, _PID_FILES) if pid is not None}
    others = {int(name) for name in os.listdir("/proc") if name.isdigit()} - named
    for pid in (*sorted(named), *sorted(others)):
        arguments = _arguments(pid)
        if arguments and os.path.basename(arguments[0]) in ("dockerd", "dockerd-current", "docker-daemon"):
            yield pid


def _arguments(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(argument) for argument in file.read().split(b"\0")[:-1]]
    except OSError:
        return []  # it has ended, or is not ours to see


def _data_root(pid: int) -> str:
    arguments = _arguments(pid)
    root = _option(arguments, _ROOT_OPTIONS)
    if root is None:
        root = _configured_root(_option(arguments, ("--config-file",)) or _DEFAULT_CONFIG)
    return os.path.realpath(os.path.join(f"/proc/{pid}/cwd", root or _DEFAULT_ROOT))


def _option(arguments: list[str], names: tuple[str, ...]) -> str | None:
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if "-g" in names and argument.startswith("-g") and not argument.startswith("-g=") and argument != "-g":
            return argument[2:]
        if option in names:
            return value if equals else (arguments[number + 1] if number + 1 < len(arguments) else None)
    return None


def _configured_root(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            configuration = json.load(file)
    except (OSError, ValueError):
        return None  # the daemon itself would not start on a file that is not JSON
    root = configuration.get("data-root") or configuration.get("graph") if isinstance(configuration, dict) else None
    return root if isinstance(root, str) else None


def _pid_in(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            text = file.read(32).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def _is_below(directory: str, root: str) -> bool:
    return directory == root or directory.startswith(root.rstrip("/") + "/")


def _parents(directory: str) -> Iterator[str]:
    """Yield the directories that may be the data root: four above `<uid>.<gid>/image/<driver>/distribution`."""
    for _ in range(5):
        yield directory
        directory = os.path.dirname(directory)


def _is_locked(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(descriptor)
