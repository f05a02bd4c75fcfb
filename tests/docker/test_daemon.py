"""Whether a daemon runs on a directory is told by the databases that it has locked."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from layerstore.docker.dataroot import running_on
from tests.support.daemons import Lock

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def metadata(root: Path) -> Path:
    return root / "image" / "overlay2" / "distribution"


@pytest.fixture
def beside(root: Path) -> Path:
    """The metadata of a data root whose name begins as the other's does."""
    path = root.parent / "docker-b" / "image" / "overlay2" / "distribution"
    path.mkdir(parents=True)
    return path


def test_on_a_data_root_that_nobody_uses_no_daemon_runs(metadata: Path):
    assert running_on(str(metadata)) is None
    assert running_on(str(metadata / "not there yet")) is None


@pytest.mark.parametrize("place", ["volumes/metadata.db", "network/files/local-kv.db", "buildkit/cache.db"])
def test_a_database_that_another_process_has_locked_is_a_sign(
    place: str, root: Path, metadata: Path, beside: Path, lock: Lock
):
    """A daemon in a container of its own has no pid that is seen here, but its locks are."""
    assert running_on(str(metadata)) is None
    lock(root / place)

    said = running_on(str(metadata))

    assert said is not None
    assert str(root / place) in said
    assert running_on(str(root)) == said
    assert running_on(str(beside)) is None


def test_the_locks_of_a_data_root_protect_its_remapped_users(root: Path, lock: Lock):
    metadata = root / "231072.231072" / "image" / "overlay2" / "distribution"
    metadata.mkdir(parents=True)
    lock(root / "volumes" / "metadata.db")

    assert running_on(str(metadata)) is not None


def test_looking_takes_no_lock_away_from_a_daemon_that_starts(root: Path, metadata: Path):
    assert running_on(str(metadata)) is None

    with open(root / "volumes" / "metadata.db") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if it is still held
        assert running_on(str(metadata)) is not None


def test_no_fifo_in_the_place_of_a_file_is_waited_for(root: Path, metadata: Path):
    for place in ("volumes/metadata.db", "network/files/local-kv.db", "buildkit/cache.db"):
        (root / place).unlink()
        os.mkfifo(root / place)

    assert running_on(str(metadata)) is None


def test_a_database_behind_a_link_is_no_sign(root: Path, metadata: Path, beside: Path, lock: Lock):
    """Below a data root no link is followed: whoever may put one there could lead to another daemon's lock."""
    lock(root / "volumes" / "metadata.db")
    other = beside.parents[2]
    (other / "volumes").symlink_to(root / "volumes")
    (other / "buildkit").mkdir()
    (other / "buildkit" / "cache.db").symlink_to(root / "volumes" / "metadata.db")

    assert running_on(str(metadata)) is not None
    assert running_on(str(beside)) is None


@needs_root
def test_a_file_that_another_user_has_locked_is_no_sign(root: Path, metadata: Path, lock: Lock):
    """Above a directory in /tmp anybody may put one."""
    lock(root / "volumes" / "metadata.db")
    assert running_on(str(metadata)) is not None

    os.chown(root / "volumes" / "metadata.db", NOBODY, NOBODY)
    assert running_on(str(metadata)) is None


@needs_root
def test_the_daemon_of_the_directorys_owner_is_a_sign(root: Path, metadata: Path, lock: Lock):
    """A rootless one."""
    lock(root / "volumes" / "metadata.db")
    for path in (root / "volumes" / "metadata.db", metadata):
        os.chown(path, NOBODY, NOBODY)

    assert running_on(str(metadata)) is not None
