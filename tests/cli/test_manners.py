"""How the command treats a person: what a terminal shows, how things are found, what it asks."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from tests.docker.conftest import FIRST, DataRoot, data_root
from tests.docs.pages import Place
from tests.docs.pages import on_a_terminal as in_a_terminal
from tests.support.command import BAD, DONE, FOUND, GOLDEN, ROOT, USAGE, Result, Run, assert_one_line_error, lines
from tests.support.strategies import sha256

__all__ = ["data_root"]

LAYER = "sha256:15a6e8a8ae102f15bc8944548641d5bd88221a8bd549c34dfcc1436f87a1d63a"
BLOB = "sha256:4ab179cadfdc32f25dd71c6743359fbc39765d5e237dbb8a53acfd7f8d50e0cc"


def on_a_terminal(line: str, *, columns: int = 80) -> str:
    """Return what `layerstore LINE` prints on a terminal that is so wide."""
    environment = {**os.environ, "COLUMNS": str(columns)}
    return in_a_terminal(f"{sys.executable} -m layerstore {line}", Place(ROOT, environment))


def typing(line: str, answer: str, *, until: str = "") -> tuple[int, str]:
    """Run the command on a terminal, and type an answer once it has said something; return what it said."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "layerstore", *line.split()], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT
    )
    os.close(theirs)
    said, deadline = b"", time.monotonic() + 60
    while until.encode() not in said and time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            try:
                said += os.read(ours, 4096)
            except OSError:
                break
    if answer:
        os.write(ours, answer.encode())
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # Linux's way to say that the other end was closed
        pass
    os.close(ours)
    return process.wait(), said.decode().replace("\r\n", "\n")


class TestATerminal:
    def test_shows_the_12_first_digits_of_a_digest_and_a_pipe_all_of_them(self, run: Run, imported: Path):
        for line in (f"show {BLOB}", f"show {LAYER}", "show localhost:5000/team1/app", "query @newest limit=3"):
            shown = on_a_terminal(line)
            assert not re.search("[0-9a-f]{64}", shown), line
            assert re.search(r"\b[0-9a-f]{12}\b", shown), line
            assert re.search("[0-9a-f]{64}", on_a_terminal(" ".join((line, "--no-trunc")))), line
            assert re.search("[0-9a-f]{64}", run(*line.split()).out), line
            assert re.search("[0-9a-f]{64}", on_a_terminal(f"{line} --json")), line
        assert imported.exists()

    @pytest.mark.parametrize("columns", [60, 80, 200])
    def test_has_tables_that_fit_its_width(self, imported: Path, columns: int):
        long = "SELECT diff_id, digest, source_repository, hmac FROM v2_metadata LIMIT 5"
        for line in ("show localhost:5000/apps/a01", "query @repositories limit=5", f'query "{long}"', "query --list"):
            shown = on_a_terminal(line, columns=columns)
            assert shown
            assert [one for one in lines(shown) if len(one) > columns] == [], line
        wide = on_a_terminal(f'query --no-trunc "{long}"', columns=columns)
        assert max(map(len, lines(wide))) > 200
        assert imported.exists()

    def test_has_no_times_left_before_they_are_known(self, imported: Path):
        _, shown = typing(f"export --tar {imported.parent}/x.tar", "")

        assert "exporting" in shown
        assert " of 178" in shown
        assert " left" not in shown

    def test_names_the_phases_of_an_import(self, database: Path, tmp_path: Path):
        source = tmp_path / "source.db"
        with SQLMetadataStore(source) as store:
            store.set_many(
                ("diffid-by-digest", sha256(number).replace(":", "/"), sha256(0).encode()) for number in range(1200)
            )
        _, shown = typing(f"import {source}", "")

        assert re.search(r"reading: [\d,]+ of 1,200.*merging.*building indexes", shown, re.DOTALL)
        assert database.exists()


def test_the_time_left_is_shown_once_the_rate_is_steady(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from layerstore.cli.output import progress

    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("reading", quiet=False) as bar:
        assert bar is not None
        for now[0], done in ((1.0, 100), (2.0, 200), (4.0, 400), (9.0, 900)):
            bar(done, 1000)
    drawn = re.sub(r"\033\[K", "", capsys.readouterr().err).split("\r")

    assert "reading: 200 of 1,000" in drawn
    assert "reading: 400 of 1,000, 6 s left" in drawn
    assert "reading: 900 of 1,000, 1 s left" in drawn


def test_zero_bytes_are_counted_and_not_printed(run: Run, database: Path):
    with SQLMetadataStore(database) as store:
        store.set("n", "k", b"a" + b"\0" * 500)

    assert on_a_terminal("get n k") == "a[500 zero bytes]"
    assert run("get", "n", "k").raw == b"a" + b"\0" * 500


def test_every_time_in_json_is_there_as_text(run: Run, imported: Path):
    stats = run("stats", "--json").json
    (layer,) = run("show", LAYER, "--json").json

    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:.]+Z", stats["newest"])
    assert stats["newest_ns"] > 0
    assert layer["modified_at"].endswith("Z")
    assert imported.exists()


class TestFinding:
    @pytest.mark.parametrize("what", ["team1/app", "localhost:5000/team1/app", "team1/app:latest", "1/ap", "team1"])
    def test_a_repository_by_any_part_of_its_name(self, run: Run, imported: Path, what: str):
        result = run("show", what)

        assert result.code == DONE
        assert lines(result.out)[0] == "repository localhost:5000/team1/app"
        assert imported.exists()

    def test_several_by_what_their_names_have_in_common(self, run: Run, imported: Path):
        result = run("show", "localhost:5000")

        assert result.code == DONE
        assert lines(result.out)[0] == "50 or more repositories have this in their names; `show` one of them:"
        assert ["localhost:5000/apps/a01", "6", "layers"] in [line.split() for line in lines(result.out)]
        found = run("show", "localhost:5000", "--json").json
        assert {one["kind"] for one in found} == {"repository"}
        assert imported.exists()

    def test_a_blob_where_a_layer_is_wanted_is_told_with_its_layer(self, run: Run, imported: Path):
        for given in (BLOB, "4ab179cadfdc"):
            result = run("candidates", given, "localhost:5000/x/y")
            assert result.code == FOUND
            assert_one_line_error(result, f"{given} is a blob, not a layer: give its layer, {LAYER}")
        assert imported.exists()

    def test_named_queries_take_the_first_digits_as_show_does(self, run: Run, imported: Path):
        whole = run("query", "@layer", LAYER)

        assert whole.out.count("\n") > 2
        for given in ("15a6e8a8ae10", "diff_id=15a6e8a8ae10", "sha256:15a6e8a8ae10"):
            assert run("query", "@layer", given) == whole
        assert run("query", "@digest", "4ab179cadfdc") == run("query", "@digest", BLOB)
        assert imported.exists()


NEAR = {
    "a query": (["query", "@layr"], BAD, "did you mean @layer?"),
    "a namespace": (["list", "v2metadata-by-difid"], FOUND, "did you mean v2metadata-by-diffid?"),
    "a command": (["improt", "x"], USAGE, "import"),
    "an option": (["import", "--on-conflic", "keep", "x"], USAGE, "--on-conflict"),
}


@pytest.mark.parametrize(("arguments", "code", "said"), NEAR.values(), ids=NEAR.keys())
def test_a_near_miss_is_told(run: Run, imported: Path, arguments: list[str], code: int, said: str):
    result = run(*arguments)

    assert (result.code, result.raw) == (code, b"")
    assert said in result.err
    assert imported.exists()


def test_an_image_of_nearly_that_name_is_told(run: Run, data_root: DataRoot, imported: Path):
    data_root.image(["team/app:1.0"], {FIRST: 5})
    result = run("show", "team/app:1.1", "--data-root", data_root.path)

    assert result.code == FOUND
    assert_one_line_error(result, "did you mean team/app:1.0?")
    assert imported.exists()


class TestAsking:
    def test_prune_says_what_it_would_remove_and_asks(self, imported: Path):
        line = f"--db {imported} prune --repository localhost:5000/apps/*"
        code, said = typing(line, "n\n", until="[y/N]")
        assert code == 1
        assert "would prune" in said
        assert "nothing was removed" in said
        before = repositories(imported)

        code, said = typing(line, "y\n", until="[y/N]")
        assert (code, "pruned" in said) == (0, True)
        assert before - repositories(imported) >= 30

    def test_prune_does_not_ask_who_has_said_yes_or_pipes(self, run: Run, imported: Path):
        code, said = typing(" ".join(("--db", str(imported), "prune --repository localhost:5000/apps/*", "-y")), "")
        assert (code, "[y/N]" in said) == (0, False)
        assert run("prune", "--older-than", "2000-01-01", "--yes").code == DONE

    def test_prune_takes_patterns_and_says_which_name_nothing_has(self, run: Run, imported: Path):
        result = run("prune", "--dry-run", "--registry", "local*", "--repository", "localhost:5000/nope/*")
        assert "no association has localhost:5000/nope/*" in result.out
        assert "nothing of 178 entries" in result.out

        report = run("prune", "--registry", "*:5000", "--registry", "elsewhere.example.com", "--json").json
        assert (report["associations"], report["unknown"]) == (216, ["elsewhere.example.com"])
        assert repositories(imported) == 0

    def test_what_a_terminal_would_be_asked_for_by_accident_is_wrong_usage(self, imported: Path):
        for line, said in (
            ("import -", "standard input is a terminal"),
            ("set n k", "standard input is a terminal"),
            ("export --tar -", "not written to a terminal"),
        ):
            code, shown = typing(f"--db {imported} {line}", "")
            assert code == USAGE
            assert said in shown

    def test_an_empty_value_on_a_terminal_is_told(self, run: Run, database: Path):
        run("set", "n", "k", "")

        assert on_a_terminal("get n k") == "layerstore: the value is empty\n"
        assert run("get", "n", "k") == (DONE, b"", "")
        assert database.exists()


def repositories(database: Path) -> int:
    with SQLMetadataStore(database) as store:
        return len(list(V2MetadataService(store).repositories()))


@pytest.mark.parametrize("command", ["get", "delete"])
def test_a_digest_in_the_place_of_a_key_is_told_how_it_is_written(run: Run, imported: Path, command: str):
    result = run(command, "diffid-by-digest", BLOB)

    assert result.code == FOUND
    assert_one_line_error(result, f"a key is written with a slash: {BLOB.replace(':', '/')}")
    assert run("set", "diffid-by-digest", BLOB, LAYER).err.count("written with a slash") == 1
    assert imported.exists()


def test_how_long_a_writer_waits_is_said_by_timeout(run: Run, imported: Path):
    with SQLMetadataStore(imported) as store, store.transaction():
        began = time.monotonic()
        for command in (
            ["set", "n", "k", "v", "--timeout", "0"],
            ["delete", "--timeout", "0", "n", "k"],
            ["import", "--timeout", "0.1", GOLDEN],
            ["prune", "--older-than", "0s", "--timeout", "0"],
            ["quarantine", "drop", "--all", "--timeout", "0"],
        ):
            result = run(*command)
            assert result.code == BAD, command
            assert_one_line_error(result, imported)
        assert time.monotonic() - began < 25, "none of them waited for as long as without it"


def test_who_waits_for_another_writer_is_told_so_after_a_second(run_process: Run, imported: Path):
    with SQLMetadataStore(imported) as store, store.transaction():
        result = run_process("set", "n", "k", "v", "--timeout", "1.5")
        assert result.code == BAD
        first, last = lines(result.err)
    assert first == f"layerstore: warning: waiting for another writer of {imported}, for up to 1.5 s"
    assert "did not end in time" in last


def test_who_waits_for_a_program_that_does_not_line_up_is_told_too(run_process: Run, imported: Path):
    """Each on a database of its own, and all at once, as each waits for over a second."""
    commands = {"set": "set n k v", "import": f"import {GOLDEN}", "delete": "delete n k"}
    places = {name: Path(shutil.copy(imported, imported.with_name(f"{name}.db"))) for name in commands}

    def run_one(name: str) -> Result:
        return run_process("--db", places[name], *commands[name].split(), "--timeout", "1.5")

    with ExitStack() as stack:
        for place in places.values():
            other = stack.enter_context(closing(sqlite3.connect(place, isolation_level=None)))
            other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor() as at_once:
            results = list(at_once.map(run_one, commands))
    for place, result in zip(places.values(), results, strict=True):
        assert result.code == BAD
        first, last = lines(result.err)
        assert first == f"layerstore: warning: waiting for another writer of {place}, for up to 1.5 s"
        assert "did not end in time" in last
        assert run_process("--db", place, "set", "n", "k", "v") == (DONE, b"", "")


def test_the_files_that_were_moved_out_of_a_directory_are_listed(run: Run, imported: Path, tmp_path: Path):
    target = tmp_path / "distribution"
    run("export", target)
    victim = target / "diffid-by-digest" / BLOB.replace(":", "/")
    victim.write_bytes(b"")
    assert run("quarantine", "list", target).raw == b""
    run("verify", "--repair", target)

    (line,) = lines(run("quarantine", "list", target).out)
    assert line.endswith(BLOB.replace(":", "/"))
    (found,) = run("quarantine", "list", target, "--json").json
    assert (Path(found["path"]).read_bytes(), found["bytes"]) == (b"", 0)
    refused = run("quarantine", "list", tmp_path / "nowhere")
    assert refused.code == BAD
    assert_one_line_error(refused, "there is no such directory")
    assert imported.exists()


def test_plan_without_a_database_uses_the_data_root(run: Run, data_root: DataRoot, database: Path):
    data_root.image(["team/app:1.0"], {FIRST: 5})
    result = run("plan", "team/app:1.0", "localhost:5000/team/app", "--data-root", data_root.path)

    assert result.code == DONE
    assert "upload 1 layer" in result.out
    assert result.err == f"layerstore: no database {database}: using the data root's metadata\n"
    assert not database.exists()


def test_a_second_driver_is_made_on_purpose_only(run: Run, imported: Path, tmp_path: Path):
    root = tmp_path / "docker"
    assert run("export", "--data-root", root, "--driver", "overlay2").code == DONE

    assert run("export", "--data-root", root, "--driver", "vfs").code == BAD
    assert run("export", "--data-root", root, "--driver", "vfs", "--new-driver").code == DONE
    assert imported.exists()


def test_an_archive_is_not_made_as_a_directory(run: Run, imported: Path, tmp_path: Path):
    for name in ("x.tar", "x.tar.gz", "x.tgz"):
        result = run("export", tmp_path / name)
        assert result.code == USAGE
        assert "give --tar for an archive" in result.err
        assert not (tmp_path / name).exists()
    (tmp_path / "x.tar").mkdir()
    assert run("export", tmp_path / "x.tar").code == DONE
    assert imported.exists()


class TestQuery:
    def test_markdown_and_rows_without_a_header(self, run: Run, imported: Path):
        sql = "SELECT 'a|b' AS x, 1 AS y"
        assert run("query", "--format", "markdown", sql).out == "| x | y |\n| --- | --- |\n| a\\|b | 1 |\n"
        for form, row in (("markdown", "| a\\|b | 1 |"), ("csv", "a|b,1"), ("tsv", "a|b\t1"), ("table", "a|b  1")):
            assert run("query", "--no-header", "--format", form, sql).out == f"{row}\n"
        assert run("query", "--no-header", "SELECT 1 WHERE 0") == (DONE, b"", "")
        assert imported.exists()

    def test_values_that_do_not_fit_the_parameters_are_told_with_a_sentence(self, run: Run, imported: Path):
        for arguments, said in (
            (["SELECT ?"], "the SQL needs 1 value, one for each ?, and 0 are given"),
            (["SELECT '?', ?, ?", "1", "2", "3"], "the SQL needs 2 values, one for each ?, and 3 are given"),
            (["SELECT 1", "x"], "the SQL needs 0 values, one for each ?, and 1 are given"),
        ):
            result = run("query", *arguments)
            assert result.code == BAD
            assert_one_line_error(result, said)
        assert lines(run("query", "--no-header", "SELECT ?1 + ?1", "2").out) == ["4"]
        assert "newest is no SQL: did you mean @newest?" in run("query", "newest").err
        assert imported.exists()

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--json", "--format", "csv", "SELECT 1"],
            ["--no-header", "--json", "SELECT 1"],
            ["--no-header", "--format", "jsonl", "SELECT 1"],
            ["--list", "--explain"],
            ["--file", "x.sql", "SELECT 1"],
            ["--file", "x.sql", "@newest"],
        ],
        ids=" ".join,
    )
    def test_options_that_contradict_each_other_are_wrong_usage(self, run: Run, imported: Path, arguments: list[str]):
        result = run("query", *arguments)

        assert (result.code, result.raw) == (USAGE, b"")
        assert imported.exists()

    def test_a_number_is_asked_for_with_a_sentence(self, run: Run, imported: Path):
        result = run("query", "@newest", "limit=many")

        assert result.code == BAD
        assert_one_line_error(result, "limit must be a whole number, not 'many'")
        assert imported.exists()


def test_many_files_of_one_reason_are_summed_up(run: Run, database: Path, tmp_path: Path):
    base = tmp_path / "distribution" / "diffid-by-digest" / "sha256"
    base.mkdir(parents=True)
    for number in range(15):
        (base / f"link{number:02}").symlink_to("nowhere")
        (base / f"._{number:064x}").write_bytes(b"x")
    (base / ".DS_Store").write_bytes(b"x")
    (base / sha256(1)[7:]).write_text(sha256(2))

    result = run("import", tmp_path / "distribution")

    skipped = [line for line in lines(result.out) if line.startswith("skipped")]
    assert len(skipped) <= 12
    assert any(line.startswith("skipped: 5 more: ") for line in skipped)
    assert database.exists()


def test_a_namespace_without_entries_is_listed_and_one_that_is_not_there_is_told(run: Run, imported: Path):
    assert run("list", "v1id") == (DONE, b"", "")
    assert run("list", "v1id", "--json").json == []
    assert run("list", "nope").code == FOUND
    assert imported.exists()


def test_what_has_no_number_in_quarantine_is_told(run: Run, imported: Path):
    for command in (["show", "7"], ["restore", "7"], ["drop", "7"]):
        result = run("quarantine", *command)
        assert result.code == FOUND
        assert_one_line_error(result, "no number 7 in quarantine: `layerstore quarantine list` shows them")
    assert imported.exists()


def test_no_screen_of_help_is_cut_or_steered(run_process: Run):
    for command in (["--help"], ["schema", "--help"], ["quarantine", "--help"]):
        assert "..." not in run_process(*command).out.replace("[ARGS]...", "")
    assert "\\t" not in run_process("completion").err


def test_plurals_are_right(run: Run, database: Path, tmp_path: Path):
    with SQLMetadataStore(database) as store:
        V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2), "localhost:5000/a"))

        V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2), "localhost:5000/b"))

    said = "".join(
        run(*command).out
        for command in (
            ["stats"],
            ["verify"],
            ["show", "localhost:5000/a"],
            ["prune", "-n", "--older-than", "0s"],
            ["prune", "-n", "--keep-newest", "1"],
        )
    )
    assert "1 layer" not in said or re.search(r"\b1 layer\b", said)
    assert not re.search(r"\b1 (layers|associations|registries|repositories|entries|lists|mappings|files)\b", said)
    assert tmp_path.exists()


def test_completion_offers_what_there_is(run_process: Run, imported: Path, tmp_path: Path):
    run_process("export", "--data-root", tmp_path / "docker", "--driver", "overlay2")

    def offered(words: str) -> set[str]:
        result = run_process(
            environment={
                "_LAYERSTORE_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - (not words.endswith(" "))),
            }
        )
        assert (result.code, result.err) == (DONE, "")
        return {line.partition(",")[2] for line in result.out.splitlines() if line}

    assert "localhost:5000/team1/app" in offered("layerstore show localhost:5000/te")
    assert LAYER in offered("layerstore show sha256:15a6")
    assert "overlay2" in offered(f"layerstore export --data-root {tmp_path}/docker --driver ")
    assert {"0001", "0002"} <= offered("layerstore schema downgrade ")
    assert offered(f"layerstore --db {tmp_path}/none.db show loc") == set()
    assert imported.exists()


def test_a_program_that_closed_its_standard_input_is_no_terminal(run_process: Run, imported: Path):
    done = subprocess.run(
        f"{sys.executable} -m layerstore set n k v <&-", shell=True, cwd=ROOT, capture_output=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert run_process("get", "n", "k").raw == b"v"
    assert isinstance(io.StringIO(), io.TextIOBase)
    assert imported.exists()
