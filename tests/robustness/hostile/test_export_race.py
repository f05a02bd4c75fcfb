"""A link that is swapped in while an export runs leads nothing out of the directory, and nothing outside is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from layerstore import LayerstoreError, SQLMetadataStore, TransferError, export_directory
from tests.support.counting import Counted

MIRRORING: list[dict[str, Any]] = [{}, {"on_conflict": "replace", "delete": True}]

# Swaps a directory for a link to another one and back, without end. Each name is always there as one of the two.
SWAPPER = """
import os, sys
place, outside = sys.argv[1:]
aside, link = place + ".aside", place + ".link"
os.symlink(outside, link)
print("ready", flush=True)
while True:
    try:
        os.rename(place, aside)
        os.rename(link, place)
        os.rename(place, link)
        os.rename(aside, place)
    except OSError:
        # The export has made it anew in between: begin again with what there is.
        if os.path.islink(place):
            os.rename(place, link)
        if os.path.isdir(aside) and not os.path.lexists(place):
            os.rename(aside, place)
        elif os.path.isdir(aside):
            os.rename(aside, aside + str(os.getpid()) + str(len(os.listdir(os.path.dirname(place)))))
"""


def snapshot(folder: Path) -> dict[str, tuple[bytes | None, int, int]]:
    """Return everything below a folder: content, mode, and the time of its last change."""
    found: dict[str, tuple[bytes | None, int, int]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path)] = (content, status.st_mode, status.st_mtime_ns)
    return found


@contextmanager
def swapping(place: Path, outside: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", SWAPPER, place, outside], stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        try:
            yield
        finally:
            swapper.kill()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What is not the export's: it looks like what the export would write over, and like what it would delete."""
    outside = tmp_path / "outside"
    for key in ("sha256", "other"):
        (outside / key).mkdir(parents=True)
        for number in range(5):
            (outside / key / f"{number:064x}").write_bytes(b"not the export's")
            (outside / f"{number:064x}").write_bytes(b"not the export's")
    return outside


@pytest.mark.parametrize("place", ["n", "n/sha256"])
def test_nothing_outside_is_touched_while_a_directory_is_swapped_for_a_link(
    tmp_path: Path, outside: Path, place: str, inputs: int, counted: Counted
):
    target = tmp_path / "target"
    store = SQLMetadataStore(":memory:")
    before = snapshot(outside)
    refused: list[str] = []

    (target / place).mkdir(parents=True)
    with store, swapping(target / place, outside):
        for round_ in range(inputs):
            names = [f"{folder}{number:064x}" for number in range(8) for folder in ("", "sha256/")]
            store.set_many(("n", name, b"%d" % round_) for name in names)
            counted("inputs")
            try:
                export_directory(store, target, force=True, **MIRRORING[round_ % 2])
            except LayerstoreError as error:
                refused.append(str(error))
            assert snapshot(outside) == before
    assert refused, "the link was never in the way: this has tried nothing"
    assert [error for error in refused if str(target) not in error] == []


@pytest.mark.parametrize("place", ["n", "n/sha256", "n/sha256/" + "1" * 64])
@pytest.mark.parametrize("what", ["directory", "file", "nothing"])
def test_a_link_that_lies_there_already_is_not_followed(outside: Path, place: str, what: str, counted: Counted):
    target = outside.parent / "target"
    store = SQLMetadataStore(":memory:")
    (target / place).parent.mkdir(parents=True)
    leads_to = {"directory": outside, "file": outside / ("0" * 64), "nothing": outside / "absent"}[what]
    (target / place).symlink_to(leads_to)
    store.set("n", "sha256/" + "1" * 64, b"ours")
    before = snapshot(outside)
    counted("inputs", 2)

    for options in MIRRORING:
        with suppress(TransferError):
            export_directory(store, target, force=bool(options), **options)
        assert snapshot(outside) == before
    store.close()
    assert os.path.islink(target / place) or (target / place).read_bytes() == b"ours"
