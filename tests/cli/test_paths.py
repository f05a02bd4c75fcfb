"""What a command makes of a path: an empty one is wrong usage, and what cannot be worked on is named by what it is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from tests.support.command import BAD, DONE, GOLDEN, GOLDEN_FILES, ROOT, USAGE, Run, assert_one_line_error

EMPTY = [
    ["--db", "", "stats"],
    ["stats", "--db", ""],
    ["import", ""],
    ["import", "GOLDEN", ""],
    ["export", ""],
    ["export", "--tar", ""],
    ["export", "--data-root", "", "--driver", "overlay2"],
    ["verify", ""],
    ["diff", ""],
    ["diff", "GOLDEN", ""],
    ["show", "a/b", "--data-root", ""],
    ["plan", "a", "b", "--data-root", ""],
    ["candidates", "a" * 12, "b", "--config", ""],
    ["prune", "", "--older-than", "1d"],
    ["prune", "--keep-layers", ""],
    ["prune", "--older-than", "1d", "--to", ""],
    ["backup", ""],
    ["recover", "", "new.db"],
    ["recover", "GOLDEN", ""],
    ["serve", ""],
    ["query", "--file", ""],
]


@pytest.mark.parametrize("arguments", EMPTY, ids=" ".join)
def test_an_empty_path_is_wrong_usage_and_never_the_working_directory(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    """As an unset variable gives it."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    result = run(*(str(GOLDEN) if word == "GOLDEN" else word for word in arguments))

    assert result.code == USAGE
    assert "empty path" in result.err
    assert sorted(tmp_path.rglob("*")) == before
    assert small.exists()


def test_an_empty_layerstore_db_is_wrong_usage(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAYERSTORE_DB", "")

    for arguments in (["stats"], ["set", "n", "k", "v"], ["import", str(GOLDEN)]):
        result = run(*arguments)
        assert result.code == USAGE
        assert "LAYERSTORE_DB is empty" in result.err


def test_a_path_that_begins_with_two_slashes_is_as_with_one(run: Run, tmp_path: Path):
    """As `$ROOT/var/lib/…` is with ROOT=/."""
    for arguments in (
        ["--db", f"/{tmp_path}/l.db", "import", f"//{GOLDEN}"],
        ["verify", f"/{tmp_path}/l.db"],
        ["--db", f"/{tmp_path}/l.db", "backup", f"//{tmp_path}/b.db"],
        ["recover", f"/{tmp_path}/b.db", f"/{tmp_path}/r.db"],
        ["--db", f"/{tmp_path}/r.db", "diff", f"/{GOLDEN}"],
        ["--db", f"/{tmp_path}/r.db", "query", "SELECT 1"],
        ["--db", f"/{tmp_path}/r.db", "schema", "current"],
        ["--db", f"/{tmp_path}/r.db", "export", f"/{tmp_path}/out"],
    ):
        result = run(*arguments)
        assert (result.code, result.err) == (DONE, ""), arguments


@pytest.fixture(params=["pipe", "socket", "device", "directory"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Something that is no file, and what it is called."""
    path = tmp_path / "odd"
    kind = str(request.param)
    if kind == "pipe":
        os.mkfifo(path)
        return path, "a named pipe"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
        return path, "a socket"
    if kind == "device":
        return Path("/dev/null"), "a device"
    path.mkdir()
    return path, "a directory"


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", str(GOLDEN)],
        ["stats"],
        ["set", "n", "k", "v"],
        ["delete", "n", "k"],
        ["verify", "--repair"],
        ["query", "SELECT 1"],
        ["export", "OUT"],
        ["backup", "OUT"],
        ["schema", "current"],
        ["schema", "upgrade"],
        ["prune", "--older-than", "1d"],
        ["serve", "--port", "0"],
        ["recover"],
    ],
    ids=lambda words: words[0],
)
def test_a_database_that_is_no_file_is_refused_at_once_by_what_it_is(
    run: Run, tmp_path: Path, odd: tuple[Path, str], arguments: list[str]
):
    path, what = odd
    if what == "a directory" and arguments[0] in ("verify", "prune", "serve"):
        pytest.skip("these work on directories")
    words = [str(tmp_path / "OUT") if word == "OUT" else word for word in arguments]
    words = ["recover", str(path), str(tmp_path / "new.db")] if words == ["recover"] else ["--db", str(path), *words]

    result = run(*words)

    assert result.code == BAD
    assert_one_line_error(result, path, what)
    assert "chmod" not in result.err
    assert not (tmp_path / "new.db").exists()


def in_bash(
    line: str, database: Path, *, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which `layerstore` is the command."""
    script = f'layerstore() {{ "{sys.executable}" -m layerstore --db "{database}" "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    "line",
    [
        "layerstore import <(tar -C {golden} -c .)",
        "tar -C {golden} -c . | layerstore import /dev/stdin",
        "tar -C {golden} -cz . | layerstore import /dev/fd/0",
        "layerstore import /dev/stdin < <(tar -C {golden} -c .)",
        "tar -C {golden} -cf {tmp}/g.tar . && layerstore import /dev/stdin < {tmp}/g.tar",
        "mkfifo {tmp}/pipe && { tar -C {golden} -c . >{tmp}/pipe & layerstore import {tmp}/pipe; }",
    ],
)
def test_a_pipe_is_read_as_an_archive(run: Run, database: Path, tmp_path: Path, line: str):
    words = line.replace("{golden}", str(GOLDEN)).replace("{tmp}", str(tmp_path))

    done = in_bash(words, database)

    assert (done.returncode, done.stderr) == (DONE, "")
    assert f"{GOLDEN_FILES} read" in done.stdout
    result = run("diff", GOLDEN)
    assert result.code == DONE


def test_verify_and_diff_read_a_pipe_too(imported: Path):
    for line in (f"layerstore verify <(tar -C {GOLDEN} -c .)", f"layerstore diff <(tar -C {GOLDEN} -c .)"):
        done = in_bash(line, imported)
        assert (done.returncode, done.stderr) == (DONE, ""), line
        assert str(GOLDEN_FILES) in done.stdout


@pytest.mark.parametrize("command", ["import", "verify", "diff"])
def test_a_device_or_socket_as_a_source_is_named(run: Run, small: Path, tmp_path: Path, command: str):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    for path, what in ((tmp_path / "socket", "a socket"), (Path("/dev/zero"), "a device")):
        result = run(command, path)
        assert result.code == BAD
        assert_one_line_error(result, path, what, "give a")
    assert small.exists()


@pytest.mark.slow
def test_in_a_removed_working_directory_absolute_paths_work_and_relative_ones_say_why(imported: Path, tmp_path: Path):
    gone = tmp_path / "gone"
    line = (
        f"mkdir {gone} && cd {gone} && rmdir {gone}; layerstore verify && layerstore diff {GOLDEN}"
        f" && layerstore export {tmp_path}/out && layerstore export --tar {tmp_path}/out.tar"
        f" && layerstore backup {tmp_path}/b.db && layerstore recover {tmp_path}/b.db {tmp_path}/r.db"
        f" && tar -C {GOLDEN} -c . | layerstore import - && layerstore verify - <{tmp_path}/out.tar"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = in_bash(line, imported, environment=environment)
    assert (done.returncode, done.stderr) == (DONE, "")

    for words in (
        "import x",
        "verify x",
        "diff x",
        "export x",
        "backup x",
        "recover x y",
        "--db x stats",
        "--db x set n k v",
    ):
        done = in_bash(
            f"mkdir {gone} && cd {gone} && rmdir {gone}; layerstore {words}", imported, environment=environment
        )
        assert done.returncode == BAD, words
        assert done.stderr.startswith("layerstore: the working directory was removed"), words
        assert done.stderr.count("\n") == 1


LONG = {"name": "x" * 256, "path": "/".join(["d" * 200] * 30)}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize(
    "arguments",
    [["import"], ["verify"], ["diff"], ["export"], ["backup"], ["serve"], ["prune", "--older-than", "1d"], ["--db"]],
    ids=lambda words: words[0],
)
def test_a_path_that_is_too_long_is_one_clear_error(
    run: Run, small: Path, tmp_path: Path, kind: str, arguments: list[str]
):
    words = [*arguments, f"{tmp_path}/{LONG[kind]}", *(["stats"] if arguments == ["--db"] else [])]

    result = run(*words)

    assert result.code == BAD
    assert_one_line_error(result, "can be opened", "255")
    assert small.exists()


_AS_NOBODY = """
import importlib, json, os, pkgutil, sys
import layerstore
# What is imported may lie where this user may not look.
for module in pkgutil.walk_packages(layerstore.__path__, "layerstore."):
    if module.name != "layerstore.__main__":
        importlib.import_module(module.name)
layerstore.SQLMetadataStore(":memory:").close()
os.chdir(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        sys.argv[1:] = json.loads(line)
        try:
            layerstore.cli.main()
        except SystemExit as ended:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)  # to tidy up all that was imported takes longer than the command
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

DENIED = {
    "a database that may not be read": (["--db", "d/closed.db", "stats"], "d/closed.db"),
    "and is to be written": (["--db", "d/closed.db", "set", "n", "k", "v"], "d/closed.db"),
    "verified": (["verify", "d/closed.db"], "d/closed.db"),
    "imported": (["import", "d/closed.db"], "d/closed.db"),
    "queried": (["--db", "d/closed.db", "query", "SELECT 1"], "d/closed.db"),
    "recovered": (["recover", "d/closed.db", "mine/new.db"], "d/closed.db"),
    "a database in a directory that may not be searched": (["--db", "closed/layers.db", "stats"], "closed/layers.db"),
    "to be written there": (["--db", "closed/layers.db", "set", "n", "k", "v"], "closed/layers.db"),
    "to be removed from there": (["--db", "closed/layers.db", "delete", "n", "k"], "closed/layers.db"),
    "to be moved there": (["--db", "closed/layers.db", "schema", "upgrade"], "closed/layers.db"),
    "recovered there": (["recover", "closed/layers.db", "mine/new.db"], "closed/layers.db"),
    "a directory": (["verify", "closed"], "closed"),
    "a directory, imported": (["import", "closed"], "closed"),
    "a directory, compared": (["diff", "closed", "closed"], "closed"),
    "a directory, served": (["serve", "closed", "--port", "0"], "closed"),
    "a directory in one that may not be searched": (["import", "closed/below"], "closed/below"),
    "an archive": (["import", "d/closed.tar"], "d/closed.tar"),
    "a place for a backup": (["--db", "d/open.db", "backup", "d/new.db"], "d/new.db"),
    "a place for an archive": (["--db", "d/open.db", "export", "--tar", "d/new.tar"], "d"),
    "a place for a directory": (["--db", "d/open.db", "export", "d/new"], "d"),
    "a place for a database": (["--db", "d/new.db", "set", "n", "k", "v"], "d/new.db"),
}


@pytest.fixture(scope="module")
def as_nobody() -> Iterator[Callable[[list[str]], tuple[int, str, Path]]]:
    """Run commands as a user who may not look; one process imports everything, and each command is a child of it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "d").mkdir(mode=0o755)
        (root / "mine").mkdir()
        os.chown(root / "mine", 65534, 65534)
        for database in (root / "d" / "closed.db", root / "closed" / "layers.db"):
            with SQLMetadataStore(database) as store:
                store.set("n", "k", b"v")
        (root / "closed" / "v1id").mkdir()
        subprocess.run(["tar", "-C", GOLDEN, "-cf", root / "d" / "closed.tar", "."], check=True)
        (root / "d" / "closed.tar").chmod(0o600)
        with SQLMetadataStore(root / "d" / "closed.db", read_only=True) as store:
            store.backup(root / "d" / "open.db")
        (root / "d" / "open.db").chmod(0o644)

        with subprocess.Popen(
            [sys.executable, "-c", _AS_NOBODY, name],
            env={**os.environ, "PYTHONPATH": str(ROOT), "LAYERSTORE_DB": f"{root}/mine/layers.db"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            orders, codes = process.stdin, process.stdout
            assert orders is not None
            assert codes is not None

            def run_one(arguments: list[str]) -> tuple[int, str, Path]:
                words = [str(root / word) if "/" in word or word == "closed" else word for word in arguments]
                print(json.dumps(words), file=orders, flush=True)
                code = int(codes.readline())
                return code, (root / "said").read_text(), root

            yield run_one


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("arguments", "named"), DENIED.values(), ids=DENIED.keys())
def test_what_may_not_be_read_is_bad_input_and_the_next_step_is_named(
    as_nobody: Callable[[list[str]], tuple[int, str, Path]], arguments: list[str], named: str
):
    """Never `no such file`, which would send one looking for it."""
    code, said, root = as_nobody(arguments)

    assert code == BAD, said
    assert said.startswith(f"layerstore: {root / named}"), said
    assert "permission denied" in said
    assert "sudo" in said
    assert said.count("\n") == 1
