"""A writer of bbolt files for tests: what they are to hold as nested dicts, laid out as bbolt does.

Held against bbolt itself by the files of real engines in `tests/golden/engines`, which read the same way.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Union

from layerstore.formats.bbolt import _fnv64a

Tree = Mapping[bytes, Union[bytes, "Tree"]]

PAGE = 4096
BRANCH, LEAF, META = 1, 2, 4


class Pages:
    """The data pages of a file, as they are given out."""

    def __init__(self) -> None:
        self.made: dict[int, bytes] = {}
        self.next = 3  # two meta pages and a free list stand before them

    def add(self, flags: int, count: int, body: bytes) -> int:
        overflow = (16 + len(body) - 1) // PAGE
        number, self.next = self.next, self.next + 1 + overflow
        page = struct.pack("<QHHI", number, flags, count, overflow) + body
        self.made[number] = page.ljust((overflow + 1) * PAGE, b"\0")
        return number


def leaf(elements: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    """Return the body of a leaf: flags, key and value of its elements."""
    table, data, at = b"", b"", len(elements) * 16
    for number, (flags, key, value) in enumerate(elements):
        table += struct.pack("<IIII", flags, at + len(data) - number * 16, len(key), len(value))
        data += key + value
    return table + data


def branch(children: Sequence[tuple[bytes, int]]) -> bytes:
    table, data, at = b"", b"", len(children) * 16
    for number, (key, page) in enumerate(children):
        table += struct.pack("<IIQ", at + len(data) - number * 16, len(key), page)
        data += key
    return table + data


def _bucket(pages: Pages, tree: Tree, per_leaf: int) -> int:
    """Write a bucket into pages of its own; return its root page."""
    elements = []
    for key, value in sorted(tree.items()):
        if isinstance(value, bytes):
            elements.append((0, key, value))
        elif any(not isinstance(one, bytes) for one in value.values()) or len(value) > 4:
            elements.append((1, key, struct.pack("<QQ", _bucket(pages, value, per_leaf), 0)))
        else:
            inside = leaf([(0, name, one) for name, one in sorted(value.items()) if isinstance(one, bytes)])
            elements.append((1, key, struct.pack("<QQQHHI", 0, 0, 0, LEAF, len(value), 0) + inside))
    level = []
    for start in range(0, max(len(elements), 1), per_leaf):
        some = elements[start : start + per_leaf]
        level.append((some[0][1] if some else b"", pages.add(LEAF, len(some), leaf(some))))
    while len(level) > 1:
        below, level = level, []
        for start in range(0, len(below), per_leaf):
            children = below[start : start + per_leaf]
            level.append((children[0][0], pages.add(BRANCH, len(children), branch(children))))
    return level[0][1]


def meta(number: int, root: int, end: int, transaction: int) -> bytes:
    body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, PAGE, 0, root, 0, 2, end, transaction)
    header = struct.pack("<QHHI", number, META, 0, 0)
    return (header + body + struct.pack("<Q", _fnv64a(body))).ljust(PAGE, b"\0")


def build(tree: Tree, *, per_leaf: int = 20) -> bytes:
    """Return a bbolt file that holds a tree. Buckets of up to four values are kept in their parent's page."""
    pages = Pages()
    root = _bucket(pages, tree, per_leaf)
    return assemble(pages, root)


def assemble(pages: Pages, root: int) -> bytes:
    free = struct.pack("<QHHI", 2, 0x10, 0, 0).ljust(PAGE, b"\0")
    data = b"".join(page for _, page in sorted(pages.made.items()))
    return meta(0, root, pages.next, 1) + meta(1, root, pages.next, 2) + free + data


def write(path: Path, tree: Tree, *, per_leaf: int = 20) -> Path:
    path.write_bytes(build(tree, per_leaf=per_leaf))
    return path
