"""`serve`: the server as a process of its own, from its start to its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from tests.support.command import BAD, GOLDEN, GOLDEN_FILES, ROOT, Run
from tests.support.strategies import sha256
from tests.web.conftest import fingerprint, own_sample, serving

__all__ = ["own_sample"]


def get(address: str, path: str = "") -> str:
    with urllib.request.urlopen(address + path, timeout=30) as answer:
        return str(answer.read().decode())


def counted(address: str) -> str:
    """Return the first page when it has counts: on a machine that is busy, the first load has none."""
    deadline = time.monotonic() + 60
    while "Counted at" not in (page := get(address)):
        assert time.monotonic() < deadline, page
    return page


LONG = "select+instr(zeroblob(8000000),cast(zeroblob(4000000)+as+blob)||x'01')"


def ended(process: int) -> bool:
    """Wait for the end of a process that is not ours."""
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not Path(f"/proc/{process}/exe").exists()


def children(process: int) -> list[int]:
    """Return the processes that a process has begun and that run."""
    with open(f"/proc/{process}/task/{process}/children") as listed:
        found = [int(child) for child in listed.read().split()]
    for task in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{task}/children") as listed:
            found += [int(child) for child in listed.read().split()]
    return sorted(set(found))


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_stops_when_it_is_told(own_sample: Path, signal_number: int):
    before = fingerprint(own_sample)
    with serving(own_sample) as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert "Image layers" in get(address)
        process.send_signal(signal_number)
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        with pytest.raises(urllib.error.URLError):
            get(address)
    assert fingerprint(own_sample) == before


def test_it_stops_while_somebody_is_connected_and_a_query_runs(own_sample: Path):
    with serving(own_sample) as (process, address):
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        there = ("127.0.0.1", port)
        with socket.create_connection(there) as idle, socket.create_connection(there) as busy:
            busy.sendall(f"GET /store.json?sql={LONG} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0  # the query never ends by itself
            assert idle.recv(1) == b""
            assert process.stderr is not None
            assert process.stderr.read() == ""


def test_it_stops_while_a_thread_never_ends_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a directory, so that the temporary copy must go too."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    program = (
        "import sys, threading\n"
        "from layerstore.cli import main\n"
        "from layerstore.web import pages\n"
        "pages.finding.search = lambda *_: threading.Event().wait()\n"
        f"sys.argv = ['layerstore', 'serve', {str(GOLDEN)!r}, '--port', '0']\n"
        "main()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[0].rstrip("/").rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as busy:
            for query in ("/-/search?q=x", f"/store.json?sql={LONG}"):
                busy.sendall(f"GET {query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(0.5)
            begun = children(process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
    assert os.listdir(tmp_path / "tmp") == []
    for child in begun:
        assert not Path(f"/proc/{child}/exe").exists() or ended(child)


def test_no_child_is_left_when_it_stops_during_verify(own_sample: Path, tmp_path: Path):
    # So many that the check is still at work when the server is told to stop.
    with SQLMetadataStore(own_sample) as store:
        store.set_many(("other", f"key{number}", b"x") for number in range(80_000))
    with serving(own_sample) as (process, address):
        deadline = time.monotonic() + 30
        while not (begun := children(process.pid)):
            get(address)
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    for child in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_with_no_verify_it_starts_no_other_process(own_sample: Path):
    with serving(own_sample, "--no-verify") as (process, address):
        get(address)
        assert "--no-verify" in get(address)
        assert children(process.pid) == []


def test_what_an_engine_wrote_is_shown_as_a_copy():
    """A cache is an SQLite database as well, of another program."""
    cache = ROOT / "tests/golden/engines/skopeo-1.22.0-gzip-preserved.sqlite"
    before = fingerprint(cache)
    with serving(cache, "--no-verify") as (_, address):
        assert "127.0.0.1:27889/sid/one" in get(address, "store/locations.json")
    assert fingerprint(cache) == before


def test_what_a_writer_adds_is_there_at_the_next_load(own_sample: Path):
    with serving(own_sample) as (_, address), SQLMetadataStore(own_sample) as writer:
        v2 = V2MetadataService(writer)
        for number in range(5):
            layer = sha256(0xF00 + number << 240)
            assert layer[:19] not in get(address, "-/layers")
            v2.add(layer, V2Metadata(sha256(100 + number), "localhost:5000/new/app"))
            assert layer[:19] in get(address, "-/layers")
            assert layer in get(address, f"-/layer/{layer}")
            # On a machine that is busy, counting takes longer than a page waits: then it says that it is behind.
            while f">{GOLDEN_FILES // 2 + number + 1}</a>" not in (home := get(address)):
                assert "the store has changed since" in home
            assert f"{number + 1} row" in get(address, "store/v2_metadata?source_repository=localhost:5000/new/app")


@pytest.mark.parametrize("place", ["distribution", "data root"])
def test_one_command_shows_dockers_directory(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    directory = GOLDEN
    if place == "data root":
        directory = tmp_path / "docker"
        (directory / "image" / "overlay2").mkdir(parents=True)
        (directory / "image" / "overlay2" / "distribution").symlink_to(GOLDEN)
        directory.joinpath("image", "overlay2", "distribution").unlink()
        subprocess.run(["cp", "-a", GOLDEN, directory / "image" / "overlay2"], check=True)
    with serving(directory) as (_, address):
        assert ">89</a>" in counted(address)
        assert str(directory) in get(address)
        assert os.listdir(tmp_path / "tmp") != []
    assert os.listdir(tmp_path / "tmp") == []


def test_without_a_path_it_shows_the_database(run_process: Run, imported: Path):
    assert imported.exists()
    with serving("--no-verify") as (_, address):
        assert ">89</a>" in counted(address)


def test_it_opens_the_browser(own_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    with serving(own_sample, "--open") as (_, address):
        deadline = time.monotonic() + 20
        while not ((tmp_path / "opened").exists() and (tmp_path / "opened").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (tmp_path / "opened").read_text() == f"{address}\n"


def test_without_a_browser_it_says_so_and_serves(own_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BROWSER", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with serving(own_sample, "--open") as (process, address):
        assert process.stderr is not None
        assert process.stderr.readline() == (
            f"layerstore: warning: no browser could be started: open {address} in one\n"
        )
        assert "Image layers" in get(address)


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(run: Run, imported: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port))

    assert (result.code, result.out) == (BAD, "")
    assert f"port {port} of 127.0.0.1 is in use" in result.err
    assert "--port 0" in result.err
    assert imported.exists()


def test_an_address_that_is_not_this_machines_is_an_error(run: Run, imported: Path):
    for host in ("192.0.2.1", "no-such-host.invalid"):
        result = run("serve", "--host", host, "--port", "0")
        assert result.code == BAD
        assert f"--host {host}" in result.err
    assert imported.exists()


def test_an_address_that_others_reach_is_warned_of(own_sample: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "layerstore", "serve", str(own_sample), "--port", "0", "--host", "0.0.0.0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        port = process.stdout.readline().split()[0].rstrip("/").rsplit(":", 1)[1]
        request = urllib.request.Request(f"http://127.0.0.1:{port}/-/layers", headers={"Host": "builder.example"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
        process.terminate()
        assert "warning: everyone who reaches 0.0.0.0 can read everything" in process.stderr.read()
        assert process.wait(timeout=20) == 0


def test_the_loopback_address_of_ip_6_is_as_good(own_sample: Path):
    with serving(own_sample, "--host", "::1") as (_, address):
        assert address.startswith("http://[::1]:")
        assert "Image layers" in get(address)


def test_a_bad_file_is_the_packages_own_error(run: Run, tmp_path: Path, database: Path):
    foreign, nonsense = tmp_path / "foreign.db", tmp_path / "nonsense.db"
    subprocess.run(
        [sys.executable, "-c", f"import sqlite3; sqlite3.connect({str(foreign)!r}).execute('CREATE TABLE t (x)')"],
        check=True,
    )
    nonsense.write_bytes(b"nonsense" * 1000)
    for path, said in (
        (tmp_path / "nowhere.db", "there is no such file"),
        (foreign, "not a layerstore database"),
        (nonsense, "nonsense.db"),
        (Path(":memory:"), "memory"),
        (tmp_path / "tmp", "none of Docker's namespaces"),
    ):
        (tmp_path / "tmp").mkdir(exist_ok=True)
        (tmp_path / "tmp" / "x").write_text("x")
        result = run("serve", str(path), "--port", "0")
        assert (result.code, result.out) == (BAD, ""), path
        assert said in result.err, path
        assert "Traceback" not in result.err
    assert run("serve", "--port", "0").code == BAD
    assert not database.exists()


def test_without_the_extra_it_says_how_to_get_it(run_process: Run, imported: Path, tmp_path: Path):
    (tmp_path / "hidden" / "datasette").mkdir(parents=True)
    (tmp_path / "hidden" / "datasette" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'datasette'\", name='datasette')\n"
    )
    result = run_process("serve", environment={"PYTHONPATH": str(tmp_path / "hidden")})

    assert result.code == BAD
    assert "datasette is missing" in result.err
    assert "pip install 'layerstore[web]'" in result.err
    assert imported.exists()
