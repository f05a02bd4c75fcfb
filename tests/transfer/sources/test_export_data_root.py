"""`export --data-root R --driver D`: where it writes, and which combinations of options make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.archives import listing
from tests.support.command import BAD, DONE, USAGE, Run, assert_one_line_error
from tests.support.entries import directory_modes
from tests.transfer.sources.conftest import fill_database


@pytest.fixture
def root(tmp_path: Path, database: Path) -> Path:
    """A data root that is not there yet; the database has one entry."""
    fill_database(database, "k", b"v")
    return tmp_path / "host" / "docker"


def test_it_writes_to_the_directory_of_the_driver(run: Run, root: Path):
    done = run("export", "--data-root", root, "--driver", "overlay2", "--json")

    assert (done.code, done.json["path"]) == (DONE, str(root / "image" / "overlay2" / "distribution"))
    assert (root / "image" / "overlay2" / "distribution" / "n" / "k").read_bytes() == b"v"
    assert listing(root) == [
        "image",
        "image/overlay2",
        "image/overlay2/distribution",
        "image/overlay2/distribution/n",
        "image/overlay2/distribution/n/k",
    ]


def test_the_directories_that_it_makes_are_dockers(run: Run, root: Path):
    """0700 down to `distribution`, as nobody else may look; those that were there stay as they were."""
    root.mkdir(parents=True)
    root.chmod(0o711)

    run("export", "--data-root", root, "--driver", "overlay2")

    assert directory_modes(root) == {
        ".": 0o711,
        "image": 0o700,
        "image/overlay2": 0o700,
        "image/overlay2/distribution": 0o700,
        "image/overlay2/distribution/n": 0o755,
    }


def test_from_one_driver_to_another(run: Run, root: Path):
    """A host moves to another storage driver without losing the mounts."""
    assert run("export", "--data-root", root, "--driver", "aufs").code == DONE
    assert run("--db", root / "new.db", "import", root).code == DONE
    assert (
        run("--db", root / "new.db", "export", "--data-root", root, "--driver", "overlay2", "--new-driver").code == DONE
    )

    done = run("diff", root / "image" / "aufs" / "distribution", root / "image" / "overlay2" / "distribution")
    assert (done.code, "1 entry is equal" in done.out) == (DONE, True)


def test_a_driver_is_taken_by_itself_where_there_is_one(run: Run, root: Path):
    assert_one_line_error(run("export", "--data-root", root), root, "no storage driver yet", "--driver")

    run("export", "--data-root", root, "--driver", "overlay2")
    done = run("export", "--data-root", root, "--json")
    assert done.json["path"] == str(root / "image" / "overlay2" / "distribution")

    run("export", "--data-root", root, "--driver", "vfs", "--new-driver")
    refused = run("export", "--data-root", root)
    assert refused.code == BAD
    assert_one_line_error(refused, "overlay2, vfs", "--driver")


def test_a_driver_that_the_root_does_not_have_is_refused_unless_it_is_new_on_purpose(run: Run, root: Path):
    run("export", "--data-root", root, "--driver", "overlay2")

    refused = run("export", "--data-root", root, "--driver", "overlay")
    assert refused.code == BAD
    assert_one_line_error(refused, "'overlay'", "did you mean overlay2?", "--new-driver")
    assert not (root / "image" / "overlay").exists()
    assert run("export", "--data-root", root, "--driver", "overlay", "--new-driver").code == DONE


def test_a_dry_run_makes_nothing(run: Run, root: Path):
    done = run("export", "--data-root", root, "--driver", "overlay2", "--dry-run", "--json")

    assert (done.code, done.json["written"], done.json["dry_run"]) == (DONE, 1, True)
    assert not root.exists()


def test_below_the_data_root_no_link_is_followed(run: Run, root: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (root / "image" / "overlay2").mkdir(parents=True)
    (root / "image" / "overlay2" / "distribution").symlink_to(tmp_path / "elsewhere")

    done = run("export", "--data-root", root, "--driver", "overlay2")

    assert done.code == BAD
    assert_one_line_error(done, root / "image" / "overlay2" / "distribution", tmp_path / "elsewhere")
    assert listing(tmp_path / "elsewhere") == []


WRONG = {
    "nothing": [],
    "driver alone": ["--driver", "overlay2"],
    "path and root": ["{root}/x", "--data-root", "{root}", "--driver", "overlay2"],
    "path and driver": ["{root}/x", "--driver", "overlay2"],
    "standard output and root": ["-", "--data-root", "{root}", "--driver", "overlay2"],
    "driver that is a path": ["--data-root", "{root}", "--driver", "a/b"],
    "driver that leads out": ["--data-root", "{root}", "--driver", ".."],
    "driver that is here": ["--data-root", "{root}", "--driver", "."],
    "empty driver": ["--data-root", "{root}", "--driver", ""],
    "tar without a path": ["--tar"],
    "tar into a data root": ["--tar", "--data-root", "{root}", "--driver", "overlay2"],
    "two paths": ["{root}/x", "{root}/y"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG.keys())
def test_what_makes_no_sense_is_wrong_usage_and_does_nothing(arguments: list[str], run: Run, root: Path):
    (root / "image" / "overlay2").mkdir(parents=True)
    before = listing(root)

    done = run("export", *(argument.format(root=root) for argument in arguments))

    assert (done.code, done.raw) == (USAGE, b"")
    assert "Error: " in done.err
    assert listing(root) == before
