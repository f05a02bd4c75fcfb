"""Whether a daemon runs on a directory is told by its pid file, its command line, or the files that it has locked."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from layerstore.docker.daemon import running_on
from tests.keeping.conftest import Lock, Start


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


def test_the_pid_file_of_a_living_process_is_a_sign(root: Path, metadata: Path, beside: Path):
    (root / "docker.pid").write_text(f"{os.getpid()}\n")

    said = running_on(str(metadata))

    assert said is not None
    assert str(os.getpid()) in said
    assert str(root / "docker.pid") in said
    assert running_on(str(beside)) is None


def test_the_pid_file_of_a_dead_process_is_no_sign(root: Path, metadata: Path, dead: int):
    """A daemon that was killed leaves its file behind."""
    (root / "docker.pid").write_text(str(dead))

    assert running_on(str(metadata)) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"garbage", b"-1", b"0", b"1.5", b"\xff\xfe", b"9" * 4000, b"1 1"])
def test_a_pid_file_that_holds_no_number_is_no_sign(content: bytes, root: Path, metadata: Path):
    (root / "docker.pid").write_bytes(content)

    assert running_on(str(metadata)) is None


def test_a_directory_in_the_place_of_the_pid_file_is_no_sign(root: Path, metadata: Path):
    (root / "docker.pid").mkdir()

    assert running_on(str(metadata)) is None


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


OPTIONS = {
    "--data-root=": ["--data-root={root}"],
    "--data-root": ["--data-root", "{root}"],
    "-g": ["-g", "{root}"],
    "-g=": ["-g={root}"],
    "-g together": ["-g{root}"],
    "--graph": ["--graph", "{root}"],
    "--graph=": ["--graph={root}"],
    "after others": ["--debug", "-H", "fd://", "--storage-driver=overlay2", "--data-root", "{root}", "--init"],
    "trailing slash": ["--data-root={root}/"],
    "by a link": ["--data-root={link}"],
    "--config-file": ["--config-file", "{config}"],
    "--config-file=": ["--config-file={config}"],
    "graph in the configuration": ["--config-file={old}"],
    "the option goes before the configuration": ["--config-file={elsewhere}", "--data-root={root}"],
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_daemon_is_known_by_its_command_line(
    options: list[str], root: Path, metadata: Path, beside: Path, start: Start
):
    places = {key: root.parent / key for key in ("link", "config", "old", "elsewhere")}
    places["link"].symlink_to(root)
    places["config"].write_text(json.dumps({"debug": True, "data-root": str(root)}))
    places["old"].write_text(json.dumps({"graph": str(root)}))
    places["elsewhere"].write_text(json.dumps({"data-root": "/elsewhere"}))
    assert running_on(str(metadata)) is None

    pid = start("/usr/bin/dockerd", *(option.format(root=root, **places) for option in options))

    assert running_on(str(metadata)) == f"dockerd, process {pid}"
    assert running_on(str(root)) == f"dockerd, process {pid}"
    assert running_on(str(places["link"] / "image")) == f"dockerd, process {pid}"
    assert running_on(str(beside)) is None
    assert running_on(str(root.parent)) is None


def test_a_relative_data_root_is_below_the_daemons_working_directory(root: Path, metadata: Path, start: Start):
    pid = start("dockerd", "--data-root", root.name, cwd=root.parent)

    assert running_on(str(metadata)) == f"dockerd, process {pid}"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b'{"data-root": 1}', b'{"data-root": null}', b"\xff"])
def test_a_configuration_that_says_nothing_of_the_data_root_stands_for_the_default(
    content: bytes, root: Path, metadata: Path, start: Start
):
    (root.parent / "config").write_bytes(content)
    start("dockerd", "--config-file", root.parent / "config")

    assert running_on(str(metadata)) is None
    assert running_on("/var/lib/docker/image/overlay2/distribution") is not None


def test_other_programs_that_name_the_data_root_are_no_sign(root: Path, metadata: Path, start: Start):
    start("docker", "--data-root", root)
    start("vi", root / "dockerd")
    start("dockerd-rootless-like", f"--data-root={root}")

    assert running_on(str(metadata)) is None
