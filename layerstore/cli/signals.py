"""Signals that end a command: what is being written is cleaned up first, and no second one interrupts that."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)
"""Those that stay ignored: a shell ignores SIGINT for what runs in its background, `nohup` SIGHUP."""


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise KeyboardInterrupt in the body when such a signal comes, unless one is being dealt with already."""
    is_over = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if not is_over and not _is_interrupted(sys.exc_info()[1]):
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN or number not in _MAY_BE_IGNORED:
            signal.signal(number, interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        yield
    finally:
        is_over = True
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Send the signal once more whose exception came where Python can only drop it: in a finaliser or callback."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    from threading import Timer

    Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()


def _is_interrupted(error: BaseException | None) -> bool:
    """Tell whether an interrupt is on its way through the frames, from the exception that is being dealt with."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
