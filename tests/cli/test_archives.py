"""Archives, several sources, other databases: what `import` and `export` take beside a directory."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.support.command import BAD, DONE, GOLDEN, GOLDEN_FILES, USAGE, Run, assert_one_line_error, lines


@pytest.fixture
def archive(run: Run, imported: Path, tmp_path: Path) -> Path:
    """What the database holds, as a tar."""
    path = tmp_path / "out.tar"
    result = run("export", "--tar", path)
    assert (result.code, result.err) == (DONE, "")
    assert str(path) in result.out
    assert imported.exists()
    return path


def test_a_tar_has_dockers_files_with_their_modes_and_times(run: Run, archive: Path):
    with tarfile.open(archive) as tar:
        files = [member for member in tar if member.isfile()]
    assert len(files) == GOLDEN_FILES
    assert {member.mode for member in files} == {0o644}
    assert run("diff", archive).code == DONE


def test_a_tar_on_standard_output_is_the_same_and_nothing_else(run: Run, archive: Path):
    for arguments in (["--tar", "-"], ["-"]):
        result = run("export", *arguments)
        assert (result.code, result.err) == (DONE, "")
        with tarfile.open(fileobj=io.BytesIO(result.raw)) as tar, tarfile.open(archive) as other:
            assert [member.name for member in tar] == [member.name for member in other]


def test_a_tar_goes_in_from_a_path_and_from_standard_input(run: Run, archive: Path, tmp_path: Path):
    for number, (place, stdin) in enumerate(((archive, b""), ("-", archive.read_bytes()))):
        database = tmp_path / f"{number}.db"
        result = run("--db", database, "import", place, stdin=stdin)
        assert (result.code, result.err) == (DONE, "")
        assert lines(result.out)[-1].endswith(f"{GOLDEN_FILES} read, {GOLDEN_FILES} added")
        assert run("diff", database, GOLDEN).code == DONE


def test_a_tar_is_replaced_only_if_told_to(run: Run, archive: Path):
    archive.write_bytes(b"another")

    assert_one_line_error(run("export", "--tar", archive), archive, "there is a file already")
    assert archive.read_bytes() == b"another"
    assert run("export", "--tar", "--overwrite", archive).code == DONE
    assert run("diff", archive).code == DONE


def test_a_tar_can_be_verified_but_not_repaired(run: Run, archive: Path):
    assert f"checked {GOLDEN_FILES} entries" in run("verify", archive).out
    before = archive.read_bytes()

    result = run("verify", "--repair", archive)
    assert result.code == BAD
    assert_one_line_error(result, archive, "import it")
    assert archive.read_bytes() == before


def test_several_sources_go_in_at_once_and_each_is_accounted_for(run: Run, archive: Path, tmp_path: Path):
    other = tmp_path / "other.db"
    run("--db", other, "set", "n", "k", "v")
    fresh = tmp_path / "fresh.db"

    result = run("--db", fresh, "import", GOLDEN, archive, other)

    assert result.code == DONE
    for place in (GOLDEN, archive, other):
        assert str(place) in result.out
    assert lines(result.out)[-1].startswith(f"in all: {2 * GOLDEN_FILES + 1} read, {GOLDEN_FILES + 1} added")
    report = run("--db", tmp_path / "again.db", "import", "--json", GOLDEN, other).json
    assert [(source["read"], source["added"]) for source in report["sources"]] == [
        (GOLDEN_FILES, GOLDEN_FILES),
        (1, 1),
    ]


def test_export_finds_its_place_in_a_data_root(run: Run, imported: Path, tmp_path: Path):
    root = tmp_path / "docker"

    result = run("export", "--data-root", root, "--driver", "overlay2")

    assert result.code == DONE
    assert str(imported) in result.out
    assert run("diff", root / "image" / "overlay2" / "distribution").code == DONE
    assert run("import", root).code == DONE


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--driver", "vfs", "x"],
        ["x", "--data-root", "y", "--driver", "vfs"],
        ["--data-root", "x", "--driver", "../../y"],
        ["x", "--overwrite"],
        ["--tar", "--delete", "x"],
        ["--tar", "--dry-run", "x"],
    ],
    ids=" ".join,
)
def test_an_export_without_a_clear_target_is_wrong_usage(
    run: Run, imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    assert run("export", *arguments).code == USAGE
    assert sorted(tmp_path.rglob("*")) == before
    assert imported.exists()
