"""`import`, `export`, `verify`, `diff`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, V2Metadata
from layerstore.records import encode_list
from tests.support.command import BAD, DONE, FOUND, GOLDEN, GOLDEN_FILES, Run, assert_one_line_error, lines
from tests.support.strategies import sha256

LISTS, MAPPINGS = "v2metadata-by-diffid", "diffid-by-digest"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A directory with something of every kind that an import has to tell of."""
    base = tmp_path / "odd"
    (base / MAPPINGS / "sha256").mkdir(parents=True)
    (base / MAPPINGS / "sha256" / ("1" * 64)).write_text(sha256(7))
    (base / MAPPINGS / "sha256" / "short").write_text("x")
    (base / MAPPINGS / "sha256" / ".tmp-1").write_text("")
    (base / MAPPINGS / "link").symlink_to("sha256")
    return base


def test_the_main_job(run: Run, database: Path, tmp_path: Path):
    """A directory goes in, is checked, and comes out again equal: each command says so, and exits with 0."""
    result = run("import", GOLDEN)
    assert (result.code, result.err) == (DONE, "")
    assert lines(result.out)[-1].endswith(f"{GOLDEN_FILES} read, {GOLDEN_FILES} added")
    assert str(GOLDEN) in result.out
    assert str(database) in result.out

    result = run("verify")
    assert (result.code, result.err) == (DONE, "")
    assert lines(result.out)[-1] == f"checked {GOLDEN_FILES} entries of {database}: ok"

    result = run("export", tmp_path / "out")
    assert (result.code, result.err) == (DONE, "")
    assert lines(result.out)[-1] == f"{GOLDEN_FILES} written"

    for sides in ([tmp_path / "out"], [GOLDEN, tmp_path / "out"], [database, GOLDEN]):
        result = run("diff", *sides)
        assert (result.code, result.err) == (DONE, "")
        assert f"{GOLDEN_FILES} entries are equal" in result.out

    again = run("import", tmp_path / "out")
    assert lines(again.out)[-1].endswith(f"{GOLDEN_FILES} read, 0 added, {GOLDEN_FILES} unchanged")
    assert lines(run("export", tmp_path / "out").out)[-1] == f"0 written, {GOLDEN_FILES} unchanged"


@pytest.mark.slow
def test_the_main_job_in_processes_of_their_own_says_nothing_on_standard_error(run_process: Run, tmp_path: Path):
    """A pipe sees no progress bar."""
    for arguments in (["import", GOLDEN], ["verify"], ["export", tmp_path / "out"], ["diff", tmp_path / "out"]):
        result = run_process(*arguments)
        assert (result.code, result.err) == (DONE, "")
        assert result.out


def test_import_names_everything_that_was_not_taken_and_exits_with_1(run: Run, odd: Path):
    result = run("import", odd)

    assert (result.code, result.err) == (FOUND, "")
    assert lines(result.out)[:2] == [
        f"quarantined: {odd / MAPPINGS / 'sha256' / 'short'}: the key is not the digest of a layer or blob",
        f"skipped: {odd / MAPPINGS / 'link'}: a link, device, socket or pipe",
    ]
    assert "2 read, 1 added" in result.out
    assert "1 temporary" in result.out


@pytest.mark.parametrize("option", ["--quiet", "-q"])
def test_a_quiet_import_says_only_what_was_not_taken(run: Run, odd: Path, option: str):
    assert run("import", option, GOLDEN) == (DONE, b"", "")

    result = run("import", option, odd)
    assert result.code == FOUND
    assert [line.partition(":")[0] for line in lines(result.out)] == ["quarantined", "skipped"]


def test_import_in_json_has_the_reports_fields_and_ok(run: Run, odd: Path):
    report = run("import", "--json", odd).json

    assert {"sources", "read", "added", "updated", "unchanged", "evicted", "conflicts"} < report.keys()
    assert (report["read"], report["added"], report["temporary"], report["ok"]) == (2, 1, 1, False)
    assert report["skipped"] == [{"path": str(odd / MAPPINGS / "link"), "reason": "a link, device, socket or pipe"}]
    assert report["quarantined"][0]["path"].endswith("short")
    assert run("import", "--json", GOLDEN).json["ok"] is True


@pytest.mark.parametrize(("rule", "kept", "code"), [("merge", "2", FOUND), ("replace", "2", DONE), ("keep", "3", DONE)])
def test_import_asks_what_to_do_about_conflicts(run: Run, tmp_path: Path, rule: str, kept: str, code: int):
    key = "sha256/" + "1" * 64
    run("set", MAPPINGS, key, "sha256:" + "3" * 64)
    file = tmp_path / "in" / MAPPINGS / key
    file.parent.mkdir(parents=True)
    file.write_text("sha256:" + "2" * 64)

    result = run("import", "--on-conflict", rule, tmp_path / "in")

    assert result.code == code
    assert run("get", MAPPINGS, key).out == "sha256:" + kept * 64
    assert ("conflict: " in result.out) == (rule == "merge")


def test_import_of_a_data_root_takes_all_its_drivers(run: Run, tmp_path: Path):
    for driver in ("overlay2", "vfs"):
        shutil.copytree(GOLDEN, tmp_path / "root" / "image" / driver / "distribution")

    result = run("import", tmp_path / "root")

    assert result.code == DONE
    assert "image/overlay2/distribution" in result.out
    assert "image/vfs/distribution" in result.out


def test_export_deletes_only_when_told_and_a_dry_run_does_nothing(run: Run, imported: Path, tmp_path: Path):
    assert imported.exists()
    target = tmp_path / "out"
    run("export", target)
    extra = target / "n" / "extra"
    extra.parent.mkdir()
    extra.write_text("")

    assert "1 left" in run("export", target).out
    for option in ("--dry-run", "-n"):
        result = run("export", option, "--on-conflict", "replace", "--delete", target)
        assert result.code == DONE
        assert "would export" in result.out
        assert "1 deleted" in result.out
        assert extra.exists()
    assert "1 deleted" in run("export", "--on-conflict", "replace", "--delete", target).out
    assert not extra.exists()


def test_export_can_be_quiet_and_in_json(run: Run, imported: Path, tmp_path: Path):
    assert imported.exists()
    assert run("export", "--quiet", tmp_path / "out") == (DONE, b"", "")

    report = run("export", "--json", tmp_path / "out").json
    assert {
        "path",
        "written",
        "added",
        "merged",
        "replaced",
        "kept",
        "unchanged",
        "deleted",
        "extra",
        "dry_run",
        "ok",
    } <= report.keys()
    assert (report["unchanged"], report["written"], report["ok"]) == (GOLDEN_FILES, 0, True)


def test_verify_names_findings_with_remedies_and_repairs_them(run: Run, database: Path):
    run("set", LISTS, "sha256/" + "1" * 64, encode_list([V2Metadata(sha256(5))]).decode())
    run("set", "--force", MAPPINGS, "sha256/" + "2" * 64, "")

    result = run("verify")
    assert (result.code, result.err) == (FOUND, "")
    assert "error: " in result.out
    assert "warning: " in result.out
    assert result.out.count("  remedy: ") == 2
    assert lines(result.out)[-1] == f"checked 2 entries of {database}: not ok"

    result = run("verify", "--repair")
    assert result.code == DONE
    assert result.out.count(", 1 repaired") == 2
    assert lines(result.out)[-1].endswith(": ok")

    result = run("verify", "--quiet")
    assert result == (DONE, b"", "")
    assert "quarantine" in run("verify").out
    assert run("get", MAPPINGS, "sha256/" + f"{5:064x}").out == "sha256:" + "1" * 64


def test_verify_in_json_has_the_findings(run: Run, odd: Path):
    result = run("verify", "--json", odd)

    assert result.code == FOUND
    report = result.json
    assert {"path", "checked", "findings", "ok"} <= report.keys()
    assert [finding["severity"] for finding in report["findings"]] == ["error", "warning", "info", "info"]
    assert all(
        {"kind", "severity", "message", "remedy", "count", "repaired", "examples"} <= finding.keys()
        for finding in report["findings"]
    )
    assert report["ok"] is False


def test_diff_names_what_differs_and_exits_with_1(run: Run, odd: Path, tmp_path: Path):
    run("set", "n", "left", "v")
    run("set", MAPPINGS, "sha256/" + "1" * 64, sha256(8))
    result = run("diff", odd)

    assert (result.code, result.err) == (FOUND, "")
    assert lines(result.out)[:-1] == [
        "only in left: n/left",
        f"only in right: {MAPPINGS}/sha256/short",
        f"differs: {MAPPINGS}/sha256/{'1' * 64}",
    ]
    assert lines(run("diff", "--quiet", odd).out) == lines(result.out)[:-1]
    report = run("diff", "--json", odd).json
    assert report["only_left"] == [{"namespace": "n", "key": "left"}]
    assert (report["ok"], report["equal"], len(report["differing"])) == (False, 0, 1)

    assert run("diff", "--quiet", odd, odd) == (DONE, b"", "")
    assert_one_line_error(missing := run("diff", odd, tmp_path / "missing"), tmp_path / "missing")
    assert missing.code == BAD


def test_the_files_of_a_database_that_is_only_read_are_not_changed(run: Run, imported: Path, tmp_path: Path):
    before = imported.read_bytes()

    for arguments in (["list"], ["verify"], ["diff", GOLDEN], ["export", tmp_path / "out"], ["show", "x/y"]):
        run(*arguments)

    assert imported.read_bytes() == before
    with SQLMetadataStore(imported) as store:
        assert len(list(store.entries())) == GOLDEN_FILES


def test_nothing_found_is_an_error_and_no_database_is_made_unless_there_may_be_nothing(
    run: Run, tmp_path: Path, database: Path
):
    (tmp_path / "mount").mkdir()

    for command in (["import"], ["diff", GOLDEN], ["verify"]):
        refused = run(*command, tmp_path / "mount")
        assert refused.code == BAD
        assert_one_line_error(refused, tmp_path / "mount")
    assert not database.exists()

    assert run("import", "--allow-empty", tmp_path / "mount").code == DONE
    assert database.exists()
