"""What a path stands for is told by its content; where nothing of Docker's is found, that is no success."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from layerstore import (
    InvalidInputError,
    LayerstoreError,
    SQLMetadataStore,
    TransferError,
    diff,
    export_directory,
    import_directory,
    import_layers,
    prune,
    verify,
)
from tests.support.archives import archive, member
from tests.support.command import BAD, DONE, Run, assert_one_line_error
from tests.support.entries import V1, rows_of, write_file
from tests.transfer.sources.conftest import fill_archive, fill_database, fill_directory


def nothing(path: Path) -> None:
    path.mkdir()


def new_file_system(path: Path) -> None:
    (path / "lost+found").mkdir(parents=True)


def oci_layout(path: Path) -> None:
    (path / "blobs" / "sha256").mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text("{}")


def unpacked_save(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_text("[]")
    (path / "repositories").write_text("{}")


def drivers_images(path: Path) -> None:
    write_file(path, "imagedb", "content/sha256/1", b"{}")


def another_programs_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (c)")


def empty_database(path: Path) -> None:
    SQLMetadataStore(path).close()


def empty_file(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("neither archive nor database")


NOTHING: dict[Callable[[Path], None], str] = {
    nothing: "it is empty.*mounted.*--allow-empty",
    new_file_system: "it is empty.*mounted",
    oci_layout: "looks like an OCI image layout",
    unpacked_save: "looks like an unpacked `docker save`",
    drivers_images: "part of a Docker data root",
    another_programs_database: "not a layerstore database",
    empty_database: "no entry in it.*--allow-empty",
    empty_file: "an empty file: it was cut off",
    text: "not a tar archive",
}


@pytest.mark.parametrize(("make", "says"), NOTHING.items(), ids=lambda of: getattr(of, "__name__", ""))
def test_where_nothing_is_found_an_import_fails_and_no_database_is_made(
    run: Run, tmp_path: Path, database: Path, make: Callable[[Path], None], says: str
):
    make(tmp_path / "source")
    good = fill_directory(tmp_path / "good", "k", b"v")

    for places in ([tmp_path / "source"], [good, tmp_path / "source"]):
        done = run("import", *places)

        assert done.code == BAD
        assert_one_line_error(done, tmp_path / "source")
        assert not database.exists()
    with SQLMetadataStore(":memory:") as store:
        with pytest.raises(LayerstoreError, match=f"(?s){says}"):
            import_directory(store, tmp_path / "source")
        assert rows_of(store) == []


@pytest.mark.parametrize("make", [of for of in NOTHING if of is not empty_database], ids=lambda of: of.__name__)
def test_where_nothing_is_found_a_check_and_a_comparison_fail(
    run: Run, tmp_path: Path, make: Callable[[Path], None], golden: Path
):
    make(tmp_path / "source")

    for command in (["verify"], ["diff", golden], ["verify", "--repair"], ["prune", "--older-than", "1d"]):
        done = run(*command, tmp_path / "source")
        assert done.code == BAD
        assert_one_line_error(done, tmp_path / "source")
    assert not (tmp_path / "source.quarantine").exists()


def test_an_empty_database_of_ours_is_well(tmp_path: Path):
    """It is what it says: only taking nothing in from it is no success."""
    empty_database(tmp_path / "layers.db")

    assert verify(tmp_path / "layers.db").ok
    assert diff(tmp_path / "layers.db", tmp_path / "layers.db").ok


@pytest.mark.parametrize("make", [nothing, new_file_system, empty_database], ids=lambda of: of.__name__)
def test_a_script_may_say_that_there_may_be_nothing(
    run: Run, tmp_path: Path, database: Path, make: Callable[[Path], None]
):
    make(tmp_path / "source")

    done = run("import", "--allow-empty", "--json", tmp_path / "source")

    assert (done.code, done.json["read"]) == (DONE, 0)
    assert database.exists()


def test_a_host_that_has_recorded_nothing_is_taken_where_there_may_be_nothing(run: Run, tmp_path: Path):
    (tmp_path / "docker" / "image" / "overlay2").mkdir(parents=True)

    assert run("import", tmp_path / "docker").code == BAD
    assert run("import", "--allow-empty", tmp_path / "docker").code == DONE


def test_force_is_no_word_for_an_empty_directory(run: Run, tmp_path: Path):
    nothing(tmp_path / "source")
    write_file(tmp_path, "junk", ".tmp-1", b"")

    assert run("import", "--force", tmp_path / "source").code == BAD
    assert run("import", "--force", tmp_path / "junk").code == BAD


@pytest.mark.parametrize("path", ["missing", "file/below"])
def test_a_path_that_cannot_be_looked_at_is_an_error_that_names_it(tmp_path: Path, path: str):
    (tmp_path / "file").touch()
    place = str(tmp_path / path)

    for work in (lambda: verify(place), lambda: diff(place, place), lambda: prune(place, older_than="1d")):
        with pytest.raises(TransferError) as raised:
            work()
        assert raised.value.path == place


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, ""])
def test_a_path_that_nothing_can_have_is_invalid_input(tmp_path: Path, path: str):
    place = str(tmp_path / path) if path else ""

    for work in (lambda: verify(place), lambda: diff(place, place), lambda: prune(place, older_than="1d")):
        with pytest.raises(InvalidInputError):
            work()


DENIED = """
import os, sys
from layerstore import *
import layerstore.sql.sqlite.load  # what is imported late may lie where another user may not look
import layerstore
os.setgid(65534); os.setuid(65534)
for work in (verify, lambda path: diff(path, path), lambda path: import_directory(SQLMetadataStore(":memory:"), path)):
    try:
        work(sys.argv[1])
    except layerstore.LayerstoreError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what this user may not read")
@pytest.mark.parametrize("closed", ["root", "root/image/overlay2/distribution", "layers.tar"])
def test_what_may_not_be_read_says_so_and_what_helps(tmp_path: Path, golden: Path, closed: str):
    fill_directory(tmp_path / "root" / "image" / "overlay2" / "distribution", "k", b"v")
    fill_archive(tmp_path / "layers.tar", "k", b"v")
    for path in (tmp_path, *tmp_path.parents):
        if str(path).startswith("/tmp/"):
            path.chmod(0o755)
    (tmp_path / closed).chmod(0o700)
    place = tmp_path / closed.split("/", maxsplit=1)[0]

    done = subprocess.run([sys.executable, "-c", DENIED, place], capture_output=True, text=True, check=False)
    if done.returncode and "layerstore" not in done.stderr.splitlines()[-1]:
        pytest.skip("the other user may not read this package")

    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert all("permission denied" in line.lower() and "sudo" in line for line in lines), lines


def test_many_archives_are_not_all_open_at_once(sql_file: SQLMetadataStore, tmp_path: Path):
    import resource

    places = [fill_archive(tmp_path / f"{number}.tar", str(number), b"v") for number in range(150)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 130, limits[1]))
    try:
        assert import_layers(sql_file, *places).added == 150
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_pipe_is_a_source_and_is_read_once(run_process: Run, tmp_path: Path, database: Path):
    os.mkfifo(tmp_path / "pipe")
    content = archive(*(member(f"distribution/n/{number}", b"v" * 1000) for number in range(300)))
    code = "import sys; content = sys.stdin.buffer.read(); open(sys.argv[1], 'wb').write(content)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "pipe"], stdin=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        writer.stdin.write(content)
        writer.stdin.close()
        done = run_process("import", "--json", tmp_path / "pipe")
        writer.kill()

    assert (done.code, done.json["added"]) == (DONE, 300)


class Bare:
    """A store of somebody's own, which can do what a service needs and no more."""

    def get(self, _namespace: str, _key: str, /) -> bytes:
        return b""

    def set(self, _namespace: str, _key: str, _value: bytes, /) -> None:
        return None

    def delete(self, _namespace: str, _key: str, /) -> None:
        return None


def test_a_store_of_somebodys_own_is_refused_by_what_reads_whole_stores(sql_file: SQLMetadataStore, tmp_path: Path):
    works: list[Callable[[], object]] = [
        lambda: import_directory(sql_file, Bare()),
        lambda: export_directory(Bare(), tmp_path / "target"),
        lambda: verify(Bare()),
        lambda: diff(Bare(), sql_file),
        lambda: prune(Bare(), older_than="1d"),
    ]
    for work in works:
        with pytest.raises(TransferError, match="Bare cannot list its entries: give a store of this package"):
            work()
    with pytest.raises(InvalidInputError, match="importing needs a SQLMetadataStore, not Bare"):
        import_directory(Bare(), tmp_path)


def test_a_directory_with_dockers_namespaces_alone_is_well(sql_file: SQLMetadataStore, tmp_path: Path):
    """All of its entries were removed; Docker leaves the directories."""
    (tmp_path / "source" / V1).mkdir(parents=True)

    assert import_directory(sql_file, tmp_path / "source").ok
    assert verify(tmp_path / "source").ok


def test_a_database_is_told_by_its_content_not_by_its_name(sql_file: SQLMetadataStore, tmp_path: Path):
    fill_database(tmp_path / "one.tar", "a", b"v")
    fill_archive(tmp_path / "two.db", "b", b"v")

    assert import_layers(sql_file, tmp_path / "one.tar", tmp_path / "two.db").added == 2
