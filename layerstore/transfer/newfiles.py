"""Writing many new files, with two more processes: this one hands out what they take in turn.

They take from one queue, a socket that keeps the bounds of messages: each takes the next one when it has written what
it had, so that none waits for the other. All that they wrote is written when `NewFiles.finish` returns.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import socket
import sys
from contextlib import suppress
from typing import Final

from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.transfer import processes
from layerstore.transfer.processes import Helper
from layerstore.transfer.syncing import sync_file_system

_WRITERS: Final = 2
_ALONE: Final = 5000
"""Files that are written here before other processes are started. Where there are no more, none is."""
_LOOKS: Final = 500
"""Files that are written here between two looks at whether a process has started."""
_BATCH_BYTES: Final = 32 << 10
"""Of the names and values that are handed out together, if there are more than one."""
_MESSAGE_BYTES: Final = 64 << 10
"""Of the largest message. What is larger is written here."""
_SYNC: Final = 60_000
"""Files behind which one of the processes begins to bring to the disk what there is, while the other goes on."""

_Segments = tuple[str, ...]
_File = tuple[str, bytes, int]
"""A name, a value and the time of its last change, Unix time in nanoseconds."""
_Content = tuple[_Segments, list[_File]] | None
"""Files to be written into one directory; or the word to bring to the disk what there is."""


class Folder:
    """The directory in which files are written now; it stays open for those that follow in it."""

    def __init__(self, top: int) -> None:
        """Begin with none, below the open directory `top`."""
        self._top = top
        self._here: tuple[_Segments, int] | None = None

    def open(self, segments: _Segments) -> int:
        """Return the directory `segments` below the top, made if it is missing, in place of the one before."""
        if self._here is None or self._here[0] != segments:
            self.close()
            self._here = (segments, tree.open_below(self._top, segments, create=True))
        return self._here[1]

    def close(self) -> None:
        """Leave it."""
        if self._here is not None:
            os.close(self._here[1])
            self._here = None


def hold(top: int, name: str) -> int:
    """Open a directory that is being filled, and lock it, so that nobody takes it for one that was abandoned.

    Raises:
        BlockingIOError: somebody has, and removes it.
        FileNotFoundError: somebody had, and has removed it.
    """
    held = tree.open_below(top, (name,))
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.stat(name, dir_fd=top, follow_symlinks=False)
    except OSError:
        os.close(held)
        raise
    return held


class NewFiles:
    """Write files that are not there, below directories that nobody else fills."""

    def __init__(self, base: str, top: int) -> None:
        """Begin, below a base directory that is open as `top`."""
        self._crew = _Crew(base, top)
        self._folder = Folder(top)
        self._written_here = 0
        self._segments: _Segments = ()
        self._files: list[_File] = []
        self._bytes = 0
        self._unsynced = 0

    def write(self, segments: _Segments, name: str, value: bytes, modified_at_ns: int) -> None:
        """Write one, or let it be written.

        Raises:
            OSError: this one, or one before it, cannot be written.
            TransferError: a process that wrote was ended by somebody.
        """
        if not self._crew.at_work:
            tree.write_new(self._folder.open(segments), name, value, modified_at_ns)
            self._written_here += 1
            if self._written_here >= _ALONE and self._written_here % _LOOKS == 0:
                self._crew.gather()
            return
        size = len(name) + len(value)
        if segments != self._segments or self._bytes + size > _BATCH_BYTES:
            self._hand_out()
            self._segments = segments
        self._files.append((name, value, modified_at_ns))
        self._bytes += size

    def finish(self) -> None:
        """Wait until all are written.

        Raises:
            OSError: one cannot be written.
            TransferError: a process that wrote was ended by somebody.
        """
        self._hand_out()
        self._crew.finish()
        self._folder.close()

    def stop(self) -> None:
        """Give up what is not written yet."""
        self._crew.stop()
        self._folder.close()

    def _hand_out(self) -> None:
        files, self._files, self._bytes = self._files, [], 0
        if not files:
            return
        self._crew.gather()
        if not self._crew.give((self._segments, files)):
            folder = self._folder.open(self._segments)
            for name, value, modified_at_ns in files:
                tree.write_new(folder, name, value, modified_at_ns)
        self._unsynced += len(files)
        if self._unsynced >= _SYNC:
            self._crew.give(None)
            self._unsynced = 0


class _Crew:
    """The processes that write, and their queue.

    Attributes:
        at_work: those that have started, and take from the queue.
    """

    def __init__(self, base: str, top: int) -> None:
        self._base = base
        self._top = top
        self._queue: socket.socket | None = None
        self._started: list[Helper] = []
        self.at_work: list[Helper] = []

    def gather(self) -> None:
        """Start them, or let those begin that have started meanwhile; nobody waits for one."""
        if self._queue is None:
            if processes.can_help():
                with suppress(OSError):  # whoever calls writes alone
                    self._start()
        elif len(self.at_work) < len(self._started):
            for helper in self._started:
                if helper not in self.at_work and helper.is_ready(0):
                    helper.stdin.close()  # it waits for that: until it is seen here, it must not take anything
                    self.at_work.append(helper)

    def _start(self) -> None:
        self._queue, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with end:
            descriptors = (self._top, end.fileno())
            if min(descriptors) <= 2:
                raise OSError(errno.EBADF, "a standard stream is closed here, and the pipes would take its number")
            for _ in range(_WRITERS):
                self._started.append(Helper(__name__, [str(number) for number in descriptors], descriptors=descriptors))

    def give(self, content: _Content) -> bool:
        """Put something into the queue, when there is room; return false for what is too large for it.

        Raises:
            OSError: one of them could not write what it took.
            TransferError: they were ended by somebody.
        """
        assert self._queue is not None
        message = marshal.dumps(content)
        if len(message) > _MESSAGE_BYTES:
            return False
        try:
            self._queue.send(message)
        except (BrokenPipeError, ConnectionResetError):
            self._raise_what_they_met()
            raise self._ended() from None
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # the system's limit is lower than ours
                raise
            return False
        return True

    def finish(self) -> None:
        """Wait until all is done that was given; otherwise as `give`."""
        if self._queue is not None:
            self._queue.close()
        self._raise_what_they_met()
        self.stop()

    def stop(self) -> None:
        """End them, whatever they have left to do."""
        if self._queue is not None:
            self._queue.close()
        for helper in self._started:
            helper.stop()
        self._started, self.at_work = [], []

    def _raise_what_they_met(self) -> None:
        for helper in self.at_work:
            met = processes.receive(helper.stdout)
            if met is EOFError:
                raise self._ended()
            if met is not None:
                raise OSError(*met)

    def _ended(self) -> TransferError:
        return TransferError("a process that wrote it was ended: export again", self._base)


def main() -> None:
    """Write files below the open directory, as the queue says, until it ends; say what went wrong, if anything did."""
    top, descriptor = map(int, sys.argv[1:])
    with suppress(BrokenPipeError):  # whoever started this has gone
        os.write(1, processes.READY)
        os.read(0, 1)
        met = None
        with socket.socket(fileno=descriptor) as queue:
            try:
                _take(top, queue)
            except OSError as error:
                met = (error.errno, error.strerror, error.filename)
                queue.shutdown(socket.SHUT_RD)  # for the others too, and for whoever fills it
        os.write(1, processes.message(met))


def _take(top: int, queue: socket.socket) -> None:
    folders: dict[str, Folder] = {}
    while message := queue.recv(_MESSAGE_BYTES):
        content: _Content = marshal.loads(message)  # noqa: S302  # by `NewFiles`
        if content is None:
            sync_file_system(top)
            continue
        (name, *below), files = content
        if name not in folders:
            folders[name] = Folder(hold(top, name))  # until this process ends
        here = folders[name].open(tuple(below))
        for name, value, modified_at_ns in files:
            tree.write_new(here, name, value, modified_at_ns)
