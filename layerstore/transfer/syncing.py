"""Making everything of one file system survive a power cut."""

from __future__ import annotations

import ctypes
import os


def sync_file_system(descriptor: int) -> None:
    """Write everything of the file system in which `descriptor` is open to its disk.

    Source: syncfs(2), which Python does not offer; where the C library has none, sync(2), which does all of them.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        os.sync()
    elif library.syncfs(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
