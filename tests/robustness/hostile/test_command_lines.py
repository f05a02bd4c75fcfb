"""Whatever is on the command line: one of four exit codes, an error of one line, nothing written elsewhere."""

from __future__ import annotations

import shutil
import socket
import webbrowser
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from layerstore import SQLMetadataStore
from layerstore.web import server
from tests.robustness.hostile.conftest import everything
from tests.support.command import Result, Run, database, every_command, run
from tests.support.counting import Counted
from tests.support.strategies import DIGESTS, NEAR_DIGESTS, sha256

__all__ = ["database", "run"]  # fixtures of the command's tests

CODES = {0, 1, 2, 3}


LEAVES = [(tuple(path.split()), below) for path, below in every_command() if not isinstance(below, click.Group)]
NAMES = sorted({word for path, _ in LEAVES for word in path})
Trial = Run
OPTIONS = sorted({name for _, below in LEAVES for option in below.params for name in option.opts if name[0] == "-"})
# Names are below the working directory, which is the trial's own.
PLACES = [
    "here.db",
    "empty",
    "text",
    "folder",
    "tree",
    "given.tar",
    "absent",
    "absent/below",
    "text/below",
    "-",
    "link",
    ".",
]
TEXTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: text != ".."
)
WORDS = st.one_of(
    st.sampled_from(OPTIONS),
    st.sampled_from(PLACES),
    st.sampled_from(
        ["n", "k", "v2metadata-by-diffid", "diffid-by-digest", "v1id", "", "--", "0", "-1", "9" * 40, "head"]
    ),
    DIGESTS.filter(lambda digest: "/" not in digest),
    NEAR_DIGESTS.filter(lambda text: "/" not in text and "\0" not in text and text not in ("..", ".")),
    st.sampled_from(["host/name", "localhost:5000/team/app", sha256(1), sha256(1).replace(":", "/")]),
    TEXTS,
    st.binary(min_size=1, max_size=6).filter(lambda raw: b"/" not in raw and b"\0" not in raw and raw != b".."),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place of each kind that an argument may name."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "tree" / "n").mkdir(parents=True)
    (folder / "tree" / "n" / "k").write_bytes(b"value")
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "text").write_text("no database\n" * 99)
    (folder / "given.tar").write_bytes(b"no archive" * 999)
    (folder / "link").symlink_to("absent")
    with SQLMetadataStore(folder / "here.db") as store:
        store.set("n", "k", b"value")
    return folder


@pytest.fixture(autouse=True)
def serving_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server stops when it answers, starts no browser, and asks nobody what a name means."""
    startup = server._Server.startup

    async def start_and_stop(self: server._Server, sockets: list[socket.socket] | None = None) -> None:
        await startup(self, sockets)
        self.should_exit = True

    monkeypatch.setattr(server._Server, "startup", start_and_stop)
    monkeypatch.setattr(webbrowser, "open", lambda _: True)
    monkeypatch.setattr(socket, "getaddrinfo", partial(socket.getaddrinfo, flags=socket.AI_NUMERICHOST))


@pytest.fixture
def trial(places: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counted) -> Iterator[Trial]:
    """Run the command in a directory made anew, and hold what lies around it against what lay there before."""
    here, around = tmp_path / "here", tmp_path / "around"
    around.mkdir()
    (around / "victim").write_bytes(b"untouched")
    before = everything(around)

    def run_one(*arguments: object, stdin: bytes | BytesIO = b"") -> Result:
        counted("inputs")
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(places, here, symlinks=True)
        monkeypatch.chdir(here)
        return run(*arguments, stdin=stdin)

    yield run_one
    assert everything(around) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "around", "state"}


@pytest.mark.parametrize("path", [path for path, _ in LEAVES], ids=" ".join)
@given(arguments=st.lists(WORDS, max_size=6), stdin=st.binary(max_size=40))
@example(arguments=["here.db"], stdin=b"")  # `serve` does what it is for
@example(arguments=["here.db", "--open", "--port", "0", "--host", "0"], stdin=b"")
@example(arguments=["--host", "host/name"], stdin=b"")
def test_any_arguments_end_with_a_code_and_at_most_one_line_of_error(
    path: tuple[str, ...], arguments: list[str | bytes], stdin: bytes, trial: Trial
):
    result = trial(*path, *arguments, stdin=stdin)

    assert result.code in CODES, result
    assert "Traceback" not in result.err
    complaints = [line for line in result.err.splitlines() if line.startswith("layerstore: ")]
    errors = [line for line in complaints if not line.startswith("layerstore: warning: ")]
    assert len(errors) == (result.code == 3) or (result.code == 1 and len(errors) == 1), result.err
    assert result.code != 2 or "Error: " in result.err


@given(arguments=st.lists(st.one_of(WORDS, st.sampled_from(NAMES)), max_size=8))
def test_any_words_at_all(arguments: list[str | bytes], trial: Trial):
    result = trial(*arguments)

    assert result.code in CODES, result
    assert "Traceback" not in result.err
