"""Is a Docker daemon running on a directory? Nothing of it may be removed or mended under one.

Two signs, of which one is enough: a `dockerd` whose data root, as that process sees it, is this very directory; and a
lock on one of the databases that a daemon keeps locked in its data root, which also shows one in another PID namespace.

Another local user must not be able to forge a sign, to make this wait, or to fill its memory. So processes and files
count that belong to root, to the caller, or to the owner of the directory; others are not looked at any further.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from layerstore import gojson
from layerstore.files import tree

_PROGRAMS = ("dockerd", "dockerd-current", "docker-daemon")
_DEFAULT_ROOT = "/var/lib/docker"
_DEFAULT_CONFIG = "/etc/docker/daemon.json"
_LOCKED = (("volumes", "metadata.db"), ("network", "files", "local-kv.db"), ("buildkit", "cache.db"))
_ROOT_OPTIONS = ("--data-root", "-g", "--graph")
_MAX_CONFIG_BYTES = 1 << 20
_MAX_PID_BYTES = 32
_MAX_LINKS = 40
"""Links that Linux follows in one path (path_resolution(7))."""

_Identity = tuple[int, int]
"""Device and inode: two names of one directory have the same, in whichever mount namespace."""


def running_on(directory: str) -> str | None:
    """Say which daemon runs on a data root that holds `directory`, or return `None` when none does.

    Source: dockerd(8), `--data-root` and `--pidfile`; its volume store's and network store's files are bbolt
    databases, which lock themselves with flock(2).
    """
    roots = dict(_possible_roots(os.path.realpath(directory)))
    if not roots:
        return None
    trusted = {0, os.geteuid(), os.stat(next(iter(roots))).st_uid}
    daemons = {daemon.pid: daemon for daemon in _daemons(trusted)}
    for daemon in daemons.values():
        if _data_root(daemon) in roots.values():
            return f"dockerd, process {daemon.pid}"
    for root, identity in roots.items():
        named = daemons.get(_pid_in(root, trusted))
        if named is not None and named.identity(root) == identity:
            return f"process {named.pid} of {os.path.join(root, 'docker.pid')}"
        for place in _LOCKED:
            if _is_locked(root, place, trusted):
                return f"a daemon that has {os.path.join(root, *place)} locked"
    return None


def _possible_roots(directory: str) -> Iterator[tuple[str, _Identity]]:
    """Yield the directories that may be the data root: up to four above `<uid>.<gid>/image/<driver>/distribution`."""
    for _ in range(5):
        with suppress(FileNotFoundError, NotADirectoryError):  # it need not be there yet
            status = os.stat(directory)
            yield directory, (status.st_dev, status.st_ino)
        directory = os.path.dirname(directory)


class _Daemon(NamedTuple):
    """A process that is a Docker daemon."""

    pid: int
    arguments: list[str]
    root: str
    """Its root directory; empty, which stands for ours, when it is not for us to look into its mount namespace."""

    def path(self, path: str) -> str:
        """Return where we find what this process finds at a path: its links, too, begin at its own root."""
        here = self.root if path.startswith("/") else f"/proc/{self.pid}/cwd"
        rest = path.split("/")[::-1]
        links = 0
        while rest:
            step = f"{here}/{rest.pop()}"
            try:
                target = os.readlink(step)
            except OSError:
                here = step  # no link; or not there, as whoever opens the path is told
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                here = self.root
            rest += target.split("/")[::-1]
        return here

    def identity(self, path: str) -> _Identity | None:
        """Return which directory this process finds at a path, `None` if it finds none."""
        try:
            status = os.stat(self.path(path))
        except OSError:
            return None
        return status.st_dev, status.st_ino


def _daemons(trusted: set[int]) -> Iterator[_Daemon]:
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return  # not mounted here: the locks are left to tell
    for name in names:
        # Whose it is comes first: to read the arguments of a process is to wait for its memory.
        if name.isdigit() and _users(name) <= trusted:
            arguments = _arguments(name)
            if arguments and os.path.basename(arguments[0]) in _PROGRAMS:
                yield _Daemon(int(name), arguments, _root(name))


def _users(pid: str) -> set[int]:
    """Return the users that a process runs as: real, effective, saved.

    A setuid program begun by somebody under another name has his as the real one. The owner of /proc/PID would not
    do: it is root whenever a process forbids to dump its memory.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next((set(map(int, line.split()[1:])) for line in file if line.startswith(b"Uid:")), {-1})
    except OSError:
        return {-1}  # it has ended


def _arguments(pid: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(argument) for argument in file.read().split(b"\0")[:-1]]
    except OSError:
        return []  # it has ended


def _root(pid: str) -> str:
    root = f"/proc/{pid}/root"
    try:
        os.stat(root)
    except OSError:
        return ""
    return root


def _data_root(daemon: _Daemon) -> _Identity | None:
    root = _option(daemon.arguments, _ROOT_OPTIONS)
    if root is None:
        root = _configured_root(daemon, _option(daemon.arguments, ("--config-file",)) or _DEFAULT_CONFIG)
    return daemon.identity(root or _DEFAULT_ROOT)


def _option(arguments: list[str], names: tuple[str, ...]) -> str | None:
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if "-g" in names and argument.startswith("-g") and not argument.startswith("-g=") and argument != "-g":
            return argument[2:]
        if option in names:
            return value if equals else (arguments[number + 1] if number + 1 < len(arguments) else None)
    return None


def _configured_root(daemon: _Daemon, config: str) -> str | None:
    try:
        folder, name = os.path.split(daemon.path(config))
        with tree.directory(folder, ()) as here:
            content, _ = tree.read(here, name, limit_bytes=_MAX_CONFIG_BYTES)
        document = gojson.parse(content)
    except (OSError, ValueError):
        return None  # the daemon itself would not start on a file that is not JSON
    members = dict(document.members()) if isinstance(document, gojson.Object) else {}
    root = members.get("data-root") or members.get("graph")
    return root if isinstance(root, str) else None


def _pid_in(root: str, trusted: set[int]) -> int:
    """Return the process that a data root's pid file names, 0 if none. A stale number may be anybody's by now."""
    try:
        with tree.directory(root, ()) as here:
            content, status = tree.read(here, "docker.pid", limit_bytes=_MAX_PID_BYTES)
    except OSError:
        return 0
    text = content.strip()
    return int(text) if text.isdigit() and status.st_uid in trusted else 0


def _is_locked(root: str, place: tuple[str, ...], trusted: set[int]) -> bool:
    *folders, name = place
    try:
        with tree.directory(root, folders) as here:
            # Without O_NONBLOCK, opening a FIFO that lies there would wait for a writer.
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in trusted:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(descriptor)
