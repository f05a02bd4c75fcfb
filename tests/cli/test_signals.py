"""Signals: each that ends a command cleans up first, no second one interrupts that, and none shows a traceback."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, import_directory
from tests.support.command import DONE, GOLDEN, GOLDEN_FILES, ROOT

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
INTERRUPTED = 130
SAID = "layerstore: interrupted; nothing is half written, run it again\n"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The directory for temporary data."""
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@pytest.fixture
def archive() -> bytes:
    return subprocess.run(["tar", "-C", GOLDEN, "-c", "."], capture_output=True, check=True).stdout


def heeding() -> None:
    """Whoever runs the tests in the background ignores the first, which would stay so."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)


def heeding_no_hangup() -> None:
    heeding()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def started(scratch: Path, *arguments: str | Path, nohup: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command with pipes, and end it behind the body whatever happened."""
    process = subprocess.Popen(
        [sys.executable, "-m", "layerstore", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heeding_no_hangup if nohup else heeding,  # noqa: PLW1509  # the tests have no other threads
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def is_there(folder: Path, pattern: str = "*") -> None:
    """Wait until there is something in a folder."""
    deadline = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def feed(process: subprocess.Popen[bytes], content: bytes) -> None:
    """Write to a command, and wait until it has read all and waits for more.

    Python sees a signal that comes right before a system call only when that ends.
    """
    assert process.stdin is not None
    process.stdin.write(content)
    process.stdin.flush()
    deadline = time.monotonic() + 60
    asleep = 0
    while asleep < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        left = int.from_bytes(fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)), sys.byteorder)
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if (left, state) == (0, "S") else 0


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_removes_temporary_copies(scratch: Path, archive: bytes, number: signal.Signals):
    """Which hold HMACs. The archive has not come to its end, so that the command is waiting."""
    with started(scratch, "verify", "-") as process:
        feed(process, archive[: len(archive) // 2])
        is_there(scratch, "layerstore-*/archive.db-wal")

        process.send_signal(number)

        assert process.wait(60) == INTERRUPTED
        assert process.stderr is not None
        assert process.stderr.read().decode() == SAID
    assert list(scratch.iterdir()) == []


def test_nohup_goes_on(scratch: Path, archive: bytes):
    with started(scratch, "verify", "-", nohup=True) as process:
        feed(process, archive[: len(archive) // 2])
        is_there(scratch, "layerstore-*/archive.db-wal")

        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(archive[len(archive) // 2 :], 60)

        assert (process.returncode, err) == (DONE, b"")
        assert f"checked {GOLDEN_FILES} entries".encode() in out
    assert list(scratch.iterdir()) == []


def test_many_signals_interrupt_no_cleaning_up(scratch: Path, archive: bytes):
    """As of somebody who keeps pressing Ctrl-C, and of a supervisor and a terminal that close together."""
    with started(scratch, "verify", "-") as process:
        feed(process, archive[: len(archive) // 2])
        is_there(scratch, "layerstore-*/archive.db-wal")

        sent = 0
        while process.poll() is None and list(scratch.iterdir()):
            process.send_signal(ENDING[sent % len(ENDING)])
            sent += 1
        process.wait(60)
        assert process.stderr is not None
        said = process.stderr.read().decode()

    assert sent
    assert "Traceback" not in said
    assert said in ("", SAID)
    assert list(scratch.iterdir()) == []


_AT_EACH_STEP = """
import os, signal, sys
import layerstore.cli, layerstore.transfer.recovering, layerstore.transfer.verifying
from layerstore import SQLMetadataStore
SQLMetadataStore(":memory:").close()
prefix, *arguments = sys.argv[1:]
sys.argv = ["layerstore", *arguments]
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
left = None

def hook(event, arguments):
    global left
    if left is None or not any(prefix in os.fsdecode(one) for one in arguments if isinstance(one, (str, bytes))):
        return
    if left > 0:
        left -= 1
    else:  # every step from here on
        signal.raise_signal(signal.SIGTERM)

sys.addaudithook(hook)
steps = 0
while True:
    child = os.fork()
    if child == 0:
        left = steps
        layerstore.cli.main()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(steps, status, flush=True)
    if status != 130:
        break
    if arguments[0] == "recover" and os.path.exists(arguments[-1]):
        os.unlink(arguments[-1])  # it was whole already
    steps += 1
"""


@pytest.mark.parametrize("command", ["verify", "recover"])
def test_a_signal_before_each_step_and_all_that_follow_leave_nothing(
    scratch: Path, tmp_path: Path, archive: bytes, command: str
):
    """Each call that touches the temporary folder is interrupted once first, and all behind it are then, too."""
    (tmp_path / "g.tar").write_bytes(archive)
    with SQLMetadataStore(tmp_path / "old.db") as store:
        import_directory(store, GOLDEN)
    prefix, *arguments = {
        "verify": ["layerstore-", "verify", tmp_path / "g.tar"],
        "recover": [".tmp-recover-", "recover", tmp_path / "old.db", tmp_path / "new" / "new.db"],
    }[command]

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _AT_EACH_STEP, *map(str, (prefix, *arguments))],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    outcomes = [tuple(map(int, line.split())) for line in re.findall(r"^\d+ -?\d+$", done.stdout, re.MULTILINE)]
    assert "Traceback" not in done.stderr
    assert len(outcomes) > 5
    assert outcomes[-1][1] == DONE  # behind the last step
    assert list(scratch.iterdir()) == []
    assert list(tmp_path.rglob(".tmp-*")) == []


@pytest.mark.parametrize("number", ENDING)
def test_serve_ends_and_removes_its_copy(scratch: Path, number: signal.Signals):
    with started(scratch, "serve", GOLDEN, "--port", "0", "--no-verify") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"http://")
        assert list(scratch.iterdir())

        process.send_signal(number)

        assert process.wait(60) in (DONE, INTERRUPTED)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read().decode()
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("module", ["click", "alembic"])
def test_a_signal_while_modules_are_imported_shows_no_traceback(
    tmp_path: Path, small: Path, module: str, number: signal.Signals
):
    """The first is imported before there is anything to clean up, the second when a command runs."""
    (tmp_path / "first" / module).mkdir(parents=True)
    (tmp_path / "first" / module / "__init__.py").write_text(
        f"import os\nos.kill(os.getpid(), {int(number)})\nraise SystemExit('goes on')\n"
    )
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": f"{tmp_path}/first:{ROOT}"}

    done = subprocess.run(
        [sys.executable, "-m", "layerstore", "--db", small, "schema", "history"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=heeding,
    )

    if module == "click":
        assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")
    else:
        assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", SAID)


_SWALLOWED = """
import signal, sys
import layerstore.cli
from layerstore.cli import entries

class Odd:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def reading(settings):
    Odd()
    import time
    time.sleep(60)

entries.Settings.reading = reading
sys.argv = ["layerstore", "list"]
layerstore.cli.main()
"""


def test_an_interrupt_that_a_finaliser_swallowed_ends_the_command_all_the_same(database: Path):
    done = subprocess.run(
        [sys.executable, "-c", _SWALLOWED], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50
    )

    assert (done.returncode, done.stderr) == (INTERRUPTED, SAID)
    assert not database.exists()
