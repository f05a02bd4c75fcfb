"""`stats`: a store in numbers, for people and for programs."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import BAD, DONE, GOLDEN_FILES, Run, assert_one_line_error, lines


def test_the_numbers_and_the_largest_repositories_as_bars(run: Run, imported: Path):
    result = run("stats")

    assert (result.code, result.err) == (DONE, "")
    shown = lines(result.out)
    assert shown[0] == str(imported)
    assert shown[1:5] == [
        "  layers          89 in 216 associations",
        "  digests         89",
        "  repositories    64 in 1 registry",
        "  V1 IDs          0",
    ]
    assert f" in {GOLDEN_FILES} files and 5 directories\n" in result.out
    assert "% of the directory)" in result.out
    bars = [line.split() for line in shown if line.endswith("#")]
    assert len(bars) == 10
    assert bars[0] == ["localhost:5000/apps/a01", "6", "#" * 20]
    assert [len(bar[2]) for bar in bars] == [round(int(bar[1]) / 6 * 20) for bar in bars]


def test_json_has_every_number(run: Run, imported: Path):
    found = run("stats", "--json").json

    assert found["path"] == str(imported)
    assert (found["layers"], found["repositories"], found["registries"]) == (89, 64, 1)
    assert found["file_bytes"] == imported.stat().st_size
    assert found["directory"]["bytes"] == found["directory"]["block_bytes"] + found["directory"]["inode_bytes"]
    assert found["largest"][0] == {"source_repository": "localhost:5000/apps/a01", "layers": 6}


def test_an_empty_store_is_shown_too(run: Run, database: Path):
    run("set", "n", "k", "v")
    out = run("stats").out

    assert "layers          0 in 0 associations" in out
    assert "oldest list     -" in out
    assert "largest" not in out
    assert database.exists()


def test_a_missing_database_is_said(run: Run, database: Path):
    result = run("stats")

    assert result.code == BAD
    assert_one_line_error(result, database)
