"""Paths that callers give: made absolute, or refused at once by what is wrong with them.

What lies at a path is asked here too, where "there is nothing" and "it may not be looked at" must not be confused, as
`os.path.exists` does.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Final

from layerstore.errors import InvalidInputError

# Linux: NAME_MAX, and PATH_MAX without the byte that ends a path.
_LONGEST_NAME = 255
_LONGEST_PATH = 4095

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

_begins_as_url = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://").match

PERMISSION_DENIED: Final = "permission denied: run it as the owner, or as root (`sudo`)"


def absolute(path: str | os.PathLike[str]) -> str:
    """Return a path as text that begins with one slash, without `.` and `..`. Links are not followed.

    Bytes that are not UTF-8 stand in it as `os.fsdecode` gives them.

    Raises:
        InvalidInputError: it is empty, no text, too long, begins with a `~` or as a URL (`http://`) without such a
            directory here, or holds a NUL character or one that no path can hold; or it is relative, and the working
            directory was removed.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise InvalidInputError(f"a path is text or a pathlib.Path, not {type(text).__name__}: {text!r}")
    if not text:
        raise InvalidInputError("an empty path: is a variable unset?")
    first = text.partition("/")[0]
    if first.startswith("~") and not os.path.lexists(first):
        raise InvalidInputError(
            f"{text!r}: `~` stands for a home directory in a shell only: use os.path.expanduser in Python, or $HOME"
        )
    if _begins_as_url(text) and not os.path.lexists(first):
        # Not the rest, which may hold a password.
        raise InvalidInputError(
            f"{first}// is no URL that can be opened here: a store on a server is postgresql://HOST/DATABASE, one in a"
            " file sqlite:///FILE, and containerd is containerd:SOCKET; a path of such a name begins with ./"
        )
    if "\0" in text:
        raise InvalidInputError(f"a path cannot hold a NUL character: {text!r}")
    try:
        os.fsencode(text)
        found = os.path.abspath(text)
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"a path cannot hold the character {text[error.start]!r}: {text!r}") from error
    except OSError as error:
        raise InvalidInputError(
            f"the working directory was removed, so {text!r} cannot be found: give a path that begins with /, or `cd`"
            " to a directory that exists"
        ) from error
    encoded = os.fsencode(found)
    name = max(map(len, encoded.split(b"/")))
    if len(encoded) > _LONGEST_PATH or name > _LONGEST_NAME:
        raise InvalidInputError(
            f"a path of {len(encoded)} bytes with a name of {name}: at most {_LONGEST_PATH} and {_LONGEST_NAME} can be"
            f" opened: {text[:100]!r}…"
        )
    # POSIX leaves open what two slashes at the beginning mean; on Linux they mean one.
    return "/" + found.lstrip("/")


def status(path: str) -> os.stat_result | None:
    """Return what is at a path, links followed; `None` when nothing is.

    Raises:
        OSError: it cannot be told, as when a directory on the way may not be searched.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def kind(mode: int) -> str:
    """Return what something is that has this mode: `a directory`, `a named pipe`, `a file`."""
    return next((name for applies, name in _KINDS if applies(mode)), "a file")


def why_refused(error: OSError) -> str:
    """Return why the system refused something, in its words, and for a lack of rights what to do."""
    if error.errno == errno.EACCES:
        return PERMISSION_DENIED
    return error.strerror or str(error)
