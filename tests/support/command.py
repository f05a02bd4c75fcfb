"""Ways to run the command: in this process, which is fast, and as a process of its own, which is real."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from layerstore import SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService, import_directory
from layerstore.cli import command as root
from layerstore.cli import main
from tests.support.strategies import sha256

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "docker-20.10.24" / "distribution"
GOLDEN_FILES = 178

DONE, FOUND, USAGE, BAD = 0, 1, 2, 3

REPOSITORY = "localhost:5000/team/app"
V1_ID = "c" * 64
HMAC = "4ac2" + "0" * 60


def every_command(command: click.Command = root, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below one, and itself, with the words that call it."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.commands:
            below = command.get_command(context, name)
            assert below is not None
            yield from every_command(below, (*path, name))


class Result(NamedTuple):
    """How a command ended and what it said."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


Run = Callable[..., Result]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the database is that commands use unless told otherwise; it is not made yet."""
    path = tmp_path / "state" / "layers.db"
    monkeypatch.setenv("LAYERSTORE_DB", str(path))
    return path


def _argument(argument: object) -> str:
    """Return what Python would make of an argument; bytes that are no UTF-8 become surrogates."""
    return os.fsdecode(argument) if isinstance(argument, bytes) else str(argument)


@pytest.fixture
def run(database: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run the command in this process."""
    assert database.name == "layers.db"

    def run_one(*arguments: object, stdin: bytes | io.BytesIO = b"") -> Result:
        capsysbinary.readouterr()
        monkeypatch.setattr(sys, "argv", ["layerstore", *map(_argument, arguments)])
        piped = stdin if isinstance(stdin, io.BytesIO) else io.BytesIO(stdin)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped))
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsysbinary.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Result(code, said.out, said.err.decode())

    return run_one


@pytest.fixture
def run_process(database: Path) -> Run:
    """Run the command as a process of its own, in pipes."""
    assert database.name == "layers.db"

    def run_one(
        *arguments: str | bytes | os.PathLike[str], stdin: bytes = b"", environment: Mapping[str, str] = {}
    ) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "layerstore", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            input=stdin,
            capture_output=True,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr.decode())

    return run_one


@pytest.fixture(scope="session")
def imported_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real daemon wrote, in a file that tests copy: a copy takes a twentieth of the import."""
    path = tmp_path_factory.mktemp("imported") / "layers.db"
    with SQLMetadataStore(path) as store:
        import_directory(store, GOLDEN)
    return path


@pytest.fixture
def imported(database: Path, imported_once: Path) -> Path:
    """The database, filled with what a real daemon wrote."""
    database.parent.mkdir(mode=0o700)
    return Path(shutil.copy(imported_once, database))


@pytest.fixture(scope="session")
def small_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "layers.db"
    with SQLMetadataStore(path) as store:
        v2 = V2MetadataService(store)
        v2.add(sha256(0xA << 252), V2Metadata(sha256(0xB1 << 248), REPOSITORY))
        v2.add(sha256(0xA << 252), V2Metadata(sha256(0xB2 << 248), "", HMAC))
        v2.add(sha256(0xD << 252), V2Metadata(sha256(0xA << 252), REPOSITORY))
        V1IDService(store).set(V1_ID, "registry1", sha256(0xA << 252))
    return path


@pytest.fixture
def small(database: Path, small_once: Path) -> Path:
    """A database with two layers, a V1 image, and a digest that is also a DiffID."""
    database.parent.mkdir(mode=0o700)
    return Path(shutil.copy(small_once, database))


def assert_one_line_error(result: Result, *parts: object) -> None:
    """An error says what, where and what next in one line, and nothing on standard output."""
    assert result.raw == b""
    assert result.err.startswith("layerstore: ")
    assert result.err.endswith("\n")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for part in parts:
        assert str(part) in result.err


def with_places(arguments: Sequence[str], tmp_path: Path) -> list[str]:
    """Put real paths in place of the words that stand for them in a parameter."""
    places = {"GOLDEN": str(GOLDEN), "OUT": str(tmp_path / "out"), "LICENSE": str(ROOT / "LICENSE")}
    return [places.get(word, word) for word in arguments]


def lines(text: str) -> Sequence[str]:
    return text.splitlines()
