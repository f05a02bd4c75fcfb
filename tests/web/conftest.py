"""Stores to be shown, Datasette on them in this process, and the server as a process of its own."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from layerstore import SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService, import_directory
from layerstore.web.server import StoreDatasette, shown
from tests.conftest import assert_sound
from tests.support.strategies import sha256

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "docker-20.10.24" / "distribution"
REPOSITORY = "localhost:5000/team1/app"
LAYER = "sha256:15a6e8a8ae102f15bc8944548641d5bd88221a8bd549c34dfcc1436f87a1d63a"
BLOB = "sha256:4ab179cadfdc32f25dd71c6743359fbc39765d5e237dbb8a53acfd7f8d50e0cc"
SCRIPT = "<script>alert(1)</script>/<b>app</b>"
SHARED = "shared-by-tests"
HMAC = "4ac2" + "0123456789abcdef" * 3 + "0123456789ab"

TWO_BLOBS, NO_LIST, UNREADABLE, STRANGE = (sha256(number << 240) for number in range(1, 5))
UNLISTED, LOST = sha256(0xE1 << 240), sha256(0xE2 << 240)


def fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checked(path: Path) -> None:
    with SQLMetadataStore(path) as store:
        assert_sound(store)


@contextmanager
def only_read(path: Path) -> Iterator[Path]:
    """Give a store to tests that only ask: it has the same bytes when they are over."""
    before = fingerprint(path)
    yield path
    assert fingerprint(path) == before
    checked(path)


@pytest.fixture(scope="package")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a real daemon wrote, for all tests that only ask."""
    path = tmp_path_factory.mktemp(SHARED) / "sample.db"
    with SQLMetadataStore(path) as store:
        import_directory(store, GOLDEN)
    with only_read(path):
        yield path


@pytest.fixture
def own_sample(tmp_path: Path) -> Iterator[Path]:
    """The same for a test that writes. It is sound when the test is over."""
    path = tmp_path / "sample.db"
    with SQLMetadataStore(path) as store:
        import_directory(store, GOLDEN)
    yield path
    checked(path)


@pytest.fixture(scope="package")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Whatever is seldom: several digests of a layer, a layer without a list, one that is unreadable, odd names."""
    path = tmp_path_factory.mktemp(SHARED) / "odd.db"
    with SQLMetadataStore(path) as store:
        v2 = V2MetadataService(store)
        v2.add(TWO_BLOBS, V2Metadata(sha256(0xB1 << 240), "registry.example.com/a/one", HMAC))
        v2.add(TWO_BLOBS, V2Metadata(sha256(0xB2 << 240), "registry.example.com/b/two"))
        v2.add(TWO_BLOBS, V2Metadata(sha256(0xB3 << 240), ""))
        V1IDService(store).set("c" * 64, "old.example.com", TWO_BLOBS)
        store.set("diffid-by-digest", UNLISTED.replace(":", "/"), NO_LIST.encode())
        store.set("v2metadata-by-diffid", UNREADABLE.replace(":", "/"), b"not JSON<script>")
        v2.add(STRANGE, V2Metadata(sha256(0xB4 << 240), SCRIPT))
        # Half an `add`: in a list, and mapped to nothing.
        v2.add(STRANGE, V2Metadata(LOST, "registry.example.com/a/one"))
        store.delete("diffid-by-digest", LOST.replace(":", "/"))
        store.set("other", "binary", b"\xff\x00\xfe")
    with only_read(path):
        yield path


class Shown:
    """Datasette on a store, asked without a server."""

    def __init__(self, datasette: StoreDatasette) -> None:
        self.datasette = datasette
        self._runner = asyncio.Runner()

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            await self.datasette.invoke_startup()
            transport = httpx.ASGITransport(app=self.datasette.app())
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8001") as client:
                return await client.request(method, url, **options)

        return self._runner.run(ask())

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def text(self, url: str, status: int = 200) -> str:
        answer = self.get(url)
        assert answer.status_code == status, (url, answer.status_code, answer.text)
        return answer.text

    def json(self, url: str, status: int = 200) -> Any:
        answer = self.get(url)
        assert answer.status_code == status, (url, answer.status_code, answer.text)
        return answer.json()

    def count(self) -> None:
        """Wait until the store is counted."""
        self._runner.run(self.datasette.layerstore.glance())
        self.datasette.layerstore.counts.wait(60)

    def close(self) -> None:
        self.datasette.executor.shutdown()
        self.datasette.store_database.close()
        self._runner.close()


@contextmanager
def closed_at_the_end() -> Iterator[None]:
    """Close the connections that Datasette leaves open, of which Python 3.13 warns."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remember(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **{**options, "check_same_thread": False})
        if type(connection) is sqlite3.Connection:  # ours are of a class of their own, and are not forgiven
            opened.append(connection)
        return connection

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite3, "connect", remember)
        yield
    for connection in opened:
        connection.close()


Show = Callable[..., Shown]


@contextmanager
def showing() -> Iterator[Show]:
    """Show stores until the body is over: counted, and without `verify` in the background unless told otherwise."""
    with ExitStack() as stack:

        def show_one(path: Path, *, host: str = "127.0.0.1", verify: bool = False, counted: bool = True) -> Shown:
            site = stack.enter_context(shown(str(path), verify=verify))
            made = Shown(StoreDatasette(site, host))
            if counted:
                made.count()
            stack.callback(made.close)
            return made

        yield show_one


@pytest.fixture(scope="package")
def show_once() -> Iterator[Show]:
    """Show each store once on each address: what was asked, or refused, may not harm what is asked next."""
    with closed_at_the_end(), showing() as show_one:
        yield functools.cache(show_one)


@pytest.fixture
def show(show_once: Show) -> Iterator[Show]:
    """Show a store in this process; what tests share stays for the next one."""
    with showing() as show_own:
        yield lambda path, **options: (show_once if SHARED in str(path.parent) else show_own)(path, **options)


@contextmanager
def serving(*arguments: str | Path, said: list[str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the server on a free port; give its process and its address. When the body is over, it ends in order.

    What it says before its address is in `said`, where it says something.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "layerstore", "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            if said is not None:
                said.append(line)
                line = process.stdout.readline()
            address = line.split()[0]
            assert urlsplit(address).scheme == "http"
            yield process, address
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0, process.stderr.read()
