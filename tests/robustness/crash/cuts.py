"""The states of a directory after a power cut: chosen from what `disk` says is possible, and laid out."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from tests.robustness.crash.disk import (
    Acknowledged,
    Attributes,
    Change,
    Disk,
    Event,
    Inode,
    Length,
    Naming,
    Sync,
    Write,
)

EXHAUSTIVE = 512
"""A stretch between two syncs with at most so many states is gone through whole; of a longer one, a sample is taken."""


class Leaf(NamedTuple):
    """A file or, without data, a directory. Its time is 0 when it was written to and nobody set the time afterwards."""

    data: bytes | None
    mode: int
    modified_at_ns: int


Tree = dict[str, Leaf]


class State(NamedTuple):
    """What a cut leaves, and what had been acknowledged by then: the greatest number, and each one."""

    acknowledged: int
    tree: Tree
    each: frozenset[int] = frozenset()


def states(disk: Disk, limit: int, seed: str) -> Iterator[State]:
    """Yield the states that a cut may leave, each once, `limit` at most.

    Only moments just before a sync, and the end, need to be looked at: what a cut leaves earlier in the same stretch,
    a later one may leave too, as everything since the last sync may be lost.
    """
    luck = random.Random(seed)
    moments = [at for at, event in enumerate(disk.events) if isinstance(event, Sync)] + [len(disk.events)]
    seen: set[tuple[frozenset[int], int]] = set()
    left = limit
    for number, moment in enumerate(moments):
        share = -(-left // (len(moments) - number))
        for state in _states_at(disk, moment, share, luck):
            mark = state.each, hash(frozenset(state.tree.items()))
            if mark not in seen:
                seen.add(mark)
                left -= 1
                yield state


def end(disk: Disk) -> Tree:
    """Return the directory as it is when nothing is lost."""
    changes = [event for event in disk.events if isinstance(event, Change)]
    return _tree(disk, changes, {})


def lay_out(tree: Tree, home: Path) -> None:
    """Write a state to a real directory; SQLite's shared memory is none of it, as a reboot empties that."""
    home.mkdir()
    for path in sorted(tree):
        leaf, at = tree[path], home / path
        if leaf.data is None:
            at.mkdir()
            at.chmod(leaf.mode)
        elif not path.endswith("-shm"):
            at.write_bytes(leaf.data)
            at.chmod(leaf.mode)
            os.utime(at, ns=(leaf.modified_at_ns, leaf.modified_at_ns))


def _states_at(disk: Disk, moment: int, share: int, luck: random.Random) -> Iterator[State]:
    """Yield up to `share` states that a cut at a moment may leave."""
    events = disk.events[:moment]
    each = frozenset(event.number for event in events if isinstance(event, Acknowledged))
    kept_for_sure = safe(events)
    changes = [(at, event) for at, event in enumerate(events) if isinstance(event, Change)]
    pending = [at for at, event in changes if at not in kept_for_sure and isinstance(event, Naming | Attributes)]
    earlier = _earlier(events, pending)
    versions = _versions(events, kept_for_sure, luck)
    possible = 2 ** min(len(pending), 64)
    for options in versions.values():
        possible *= len(options)
    if possible <= min(EXHAUSTIVE, share):
        choices: Iterable[set[int]] = (
            {at for at, kept in zip(pending, flags, strict=True) if kept}
            for flags in product((False, True), repeat=len(pending))
        )
        mixtures = [dict(zip(versions, chosen, strict=True)) for chosen in product(*versions.values())]
        plans = ((kept, contents) for kept in choices for contents in mixtures)
    else:
        plans = (
            (_some(pending, luck), {inode: luck.choice(options) for inode, options in versions.items()})
            for _ in range(share)
        )
    for kept, contents in plans:
        lost = set(pending) - _closed(kept, earlier)
        tree = _tree(disk, [event for at, event in changes if at not in lost], contents)
        yield State(max(each, default=0), tree, each)


def _some(pending: list[int], luck: random.Random) -> set[int]:
    """Choose some: all, none, all up to one, all but one, one alone, or a few by chance."""
    if not pending:
        return set()
    at = luck.randrange(len(pending))
    probability = luck.random()
    return luck.choice(
        [
            set(pending),
            set(),
            set(pending[:at]),
            set(pending) - {pending[at]},
            {pending[at]},
            {one for one in pending if luck.random() < probability},
        ]
    )


def _closed(kept: set[int], earlier: dict[int, set[int]]) -> set[int]:
    closed, rest = set(kept), list(kept)
    while rest:
        for at in earlier[rest.pop()] - closed:
            closed.add(at)
            rest.append(at)
    return closed


def safe(events: list[Event]) -> set[int]:
    """Return which events a cut can no longer undo."""
    found: set[int] = set()
    for event in events:
        if isinstance(event, Sync):
            found.update(at for at in range(event.began) if at not in found and _is_covered(events[at], event))
    return found


def _is_covered(event: Event, sync: Sync) -> bool:
    match event:
        case Naming(changes):
            return sync.inode is None or any(directory is sync.inode for directory, _, _ in changes)
        case Write(inode, _, _) | Length(inode, _):
            return sync.inode is None or inode is sync.inode
        case Attributes(inode, _, _):
            return sync.inode is None or (inode is sync.inode and not sync.only_data)
        case _:
            return False


def _earlier(events: list[Event], pending: list[int]) -> dict[int, set[int]]:
    """Return, for each pending change, the pending changes that are kept when it is: the ones of its names."""
    last: dict[tuple[int, object], int] = {}
    earlier: dict[int, set[int]] = {}
    for at in pending:
        event = events[at]
        names: list[tuple[int, object]]
        if isinstance(event, Naming):
            names = [(id(directory), name) for directory, name, _ in event.changes]
        else:
            assert isinstance(event, Attributes)
            names = [(id(event.inode), Attributes)]
        earlier[at] = {last[name] for name in names if name in last}
        last.update((name, at) for name in names)
    return earlier


def _versions(events: list[Event], safe: set[int], luck: random.Random) -> dict[Inode, list[bytes]]:
    """Return the contents that each file may have whose bytes were not all synced."""
    found: dict[Inode, list[bytes]] = {}
    writes: dict[Inode, list[tuple[int, Write | Length]]] = {}
    for at, event in enumerate(events):
        if isinstance(event, Write | Length):
            writes.setdefault(event.inode, []).append((at, event))
    for inode, all_of_it in writes.items():
        waiting = [at for at, _ in all_of_it if at not in safe]
        if not waiting:
            continue
        contents = set()
        for kept in (set(), set(waiting), *(_some(waiting, luck) for _ in range(16))):
            content, lengths = _content(inode, [(at in safe or at in kept, event) for at, event in all_of_it])
            contents.add(content)
            contents.update(content[:length].ljust(length, b"\0") for length in lengths)
        found[inode] = sorted(contents)
    return found


def _content(inode: Inode, events: list[tuple[bool, Write | Length]]) -> tuple[bytes, set[int]]:
    """Return a file's bytes after the writes that were kept, and the lengths that it may have instead."""
    content, length = bytearray(inode.data), len(inode.data)
    lengths: set[int] = set()
    for kept, event in events:
        if isinstance(event, Length):
            length = event.size
            if kept:
                del content[event.size :]
                content.extend(bytes(event.size - len(content)))
        else:
            stop = event.offset + len(event.data)
            length = max(length, stop)
            if kept:
                content.extend(bytes(max(0, stop - len(content))))
                content[event.offset : stop] = event.data
        if not kept:
            lengths.add(length)
    return bytes(content), lengths


def _tree(disk: Disk, changes: Iterable[Change], contents: dict[Inode, bytes]) -> Tree:
    """Return the directory after the changes; the contents of files are what they say, or are given."""
    names: dict[Inode, dict[str, Inode]] = {}
    written: dict[Inode, list[tuple[bool, Write | Length]]] = {}
    modes: dict[Inode, int] = {}
    times: dict[Inode, int] = {}
    for change in changes:
        match change:
            case Naming(new):
                _give_names(names, new)
            case Write(inode, _, _) | Length(inode, _):
                written.setdefault(inode, []).append((True, change))
                times[inode] = 0
            case Attributes(inode, mode, modified_at_ns):
                modes[inode] = modes.get(inode, inode.mode) if mode is None else mode
                times[inode] = times.get(inode, inode.modified_at_ns) if modified_at_ns is None else modified_at_ns

    def leaf(inode: Inode) -> Leaf:
        data = None
        if not inode.is_directory:
            data = contents[inode] if inode in contents else _content(inode, written.get(inode, []))[0]
        return Leaf(data, modes.get(inode, inode.mode), times.get(inode, inode.modified_at_ns))

    return {path: leaf(inode) for path, inode in _below(disk.top, names)}


def _give_names(names: dict[Inode, dict[str, Inode]], changes: Iterable[tuple[Inode, str, Inode | None]]) -> None:
    for directory, name, inode in changes:
        of = names.setdefault(directory, dict(directory.names))
        if inode is None:
            of.pop(name, None)
        else:
            of[name] = inode


def _below(top: Inode, names: dict[Inode, dict[str, Inode]]) -> Iterator[tuple[str, Inode]]:
    rest = [("", top)]
    while rest:
        prefix, directory = rest.pop()
        for name, inode in names.get(directory, directory.names).items():
            yield prefix + name, inode
            if inode.is_directory:
                rest.append((f"{prefix}{name}/", inode))
