"""Whether a daemon runs on a directory is told by its pid file, its command line, or the files that it has locked."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from layerstore.docker import daemon
from layerstore.docker.daemon import running_on
from tests.support.daemons import Become, Lock, Start

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, or mount")


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


def test_the_pid_file_of_a_living_daemon_is_a_sign(root: Path, metadata: Path, beside: Path, start: Start):
    """Whatever its data root is called: without options a rootless daemon has one of its own."""
    pid = start("dockerd")
    assert running_on(str(metadata)) is None
    (root / "docker.pid").write_text(f"{pid}\n")

    assert running_on(str(metadata)) == f"process {pid} of {root / 'docker.pid'}"
    assert running_on(str(beside)) is None


@pytest.mark.parametrize("number", [os.getpid(), 1], ids=["this process", "the first one"])
def test_a_number_in_a_pid_file_that_another_program_has_by_now_is_no_sign(number: int, root: Path, metadata: Path):
    """After a reboot it is soon given again."""
    (root / "docker.pid").write_text(str(number))

    assert running_on(str(metadata)) is None


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


NO_ROOT = {
    "empty": b"",
    "broken": b"{",
    "list": b"[]",
    "text": b'"x"',
    "number": b'{"data-root": 1}',
    "null": b'{"data-root": null}',
    "not UTF-8": b"\xff",
    "deep": b'{"data-root":' + b"[" * 100_000,
    "large": b'{"data-root":"/elsewhere"}' + b" " * (1 << 20),
}


@pytest.mark.parametrize("content", NO_ROOT.values(), ids=NO_ROOT)
def test_a_configuration_that_says_nothing_of_the_data_root_stands_for_the_default(
    content: bytes, root: Path, metadata: Path, start: Start, monkeypatch: pytest.MonkeyPatch
):
    (root.parent / "config").write_bytes(content)
    pid = start("dockerd", "--config-file", root.parent / "config")
    assert running_on(str(metadata)) is None

    monkeypatch.setattr(daemon, "_DEFAULT_ROOT", str(root))
    assert running_on(str(metadata)) == f"dockerd, process {pid}"


def test_other_programs_that_name_the_data_root_are_no_sign(root: Path, metadata: Path, start: Start):
    start("docker", "--data-root", root)
    start("vi", root / "dockerd")
    start("dockerd-rootless-like", f"--data-root={root}")

    assert running_on(str(metadata)) is None


def test_no_fifo_in_the_place_of_a_file_is_waited_for(root: Path, metadata: Path, start: Start):
    for place in ("docker.pid", "volumes/metadata.db", "network/files/local-kv.db", "buildkit/cache.db", "config"):
        (root / place).unlink(missing_ok=True)
        os.mkfifo(root / place)
    start("dockerd", "--config-file", root / "config")

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


STRANGERS = {
    "another user": f"os.setresuid({NOBODY}, {NOBODY}, {NOBODY})",
    "a setuid program of another user": f"os.setresuid({NOBODY}, 0, 0)",
    "another user whose memory is closed": f"os.setresuid({NOBODY}, {NOBODY}, {NOBODY}); ctypes.CDLL(None).prctl(4, 0)",
}


@needs_root
@pytest.mark.parametrize("code", STRANGERS.values(), ids=STRANGERS)
def test_what_another_user_calls_dockerd_is_no_sign(code: str, root: Path, metadata: Path, become: Become):
    become(code, "--data-root", root)
    (root / "docker.pid").write_text(str(become(code)))

    assert running_on(str(metadata)) is None


@needs_root
def test_the_daemon_of_the_directorys_owner_is_a_sign(root: Path, metadata: Path, become: Become):
    """A rootless one."""
    os.chown(metadata, NOBODY, NOBODY)
    for place in (root, *root.parents[:3]):
        place.chmod(0o755)
    pid = become(STRANGERS["another user"], "--data-root", root)

    assert running_on(str(metadata)) == f"dockerd, process {pid}"


@needs_root
@pytest.mark.parametrize("name", ["docker.pid", "volumes/metadata.db"])
def test_the_files_of_another_user_are_no_sign(name: str, root: Path, metadata: Path, start: Start, lock: Lock):
    """Above a directory in /tmp anybody may put some, with the number of a real daemon."""
    if name == "docker.pid":
        (root / name).write_text(str(start("dockerd")))
    else:
        lock(root / name)
    assert running_on(str(metadata)) is not None

    os.chown(root / name, NOBODY, NOBODY)
    assert running_on(str(metadata)) is None


MOUNT = """
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags):
    assert libc.mount(source, target, kind, flags, None) == 0, os.strerror(ctypes.get_errno())
assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
mount(None, b"/", None, 0x44000)  # MS_REC | MS_PRIVATE
"""


@needs_root
def test_a_daemon_that_sees_another_directory_at_the_same_path_is_no_sign(
    root: Path, metadata: Path, beside: Path, become: Become
):
    """In another mount namespace, as Docker in Docker: there another file system lies over ours."""
    pid = become(f"{MOUNT}\nmount(b'none', {os.fsencode(root)!r}, b'tmpfs', 0)", "--data-root", root)
    (root / "docker.pid").write_text(str(pid))

    assert running_on(str(metadata)) is None


@needs_root
def test_a_daemon_that_sees_this_directory_at_another_path_is_a_sign(
    root: Path, metadata: Path, beside: Path, become: Become
):
    other = beside.parents[2]
    pid = become(f"{MOUNT}\nmount({os.fsencode(root)!r}, {os.fsencode(other)!r}, None, 0x1000)", "--data-root", other)

    assert running_on(str(metadata)) == f"dockerd, process {pid}"
    assert running_on(str(beside)) is None


@needs_root
@pytest.mark.parametrize("by", ["option", "configuration", "relative"])
def test_links_and_files_of_a_daemon_begin_at_its_own_root(by: str, root: Path, metadata: Path, become: Become):
    """As in a container: its /data leads to its /docker, which is ours by a longer name."""
    own = root.parent
    (own / "data").symlink_to("/somewhere/../docker/./")
    (own / "somewhere").mkdir()
    (own / "cfg.json").write_text('{"data-root": "/data"}')
    options = {"option": ["--data-root", "/data"], "configuration": ["--config-file", "/cfg.json"]}

    pid = become(f"os.chroot({str(own)!r}); os.chdir('/')", *options.get(by, ["--data-root", "data"]))

    assert running_on(str(metadata)) == f"dockerd, process {pid}"


def test_a_data_root_that_is_a_circle_of_links_is_no_sign(root: Path, metadata: Path, start: Start):
    (root.parent / "circle").symlink_to("circle")
    start("dockerd", "--data-root", root.parent / "circle")

    assert running_on(str(metadata)) is None
