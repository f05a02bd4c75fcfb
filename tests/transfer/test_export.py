"""Giving a store out: the same names, bytes, modes and times; what is right already is not touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import (
    ExportReport,
    FSMetadataStore,
    SQLMetadataStore,
    StoreFullError,
    TransferError,
    V2Metadata,
    V2MetadataService,
    diff,
    export_directory,
    import_directory,
    verify,
)
from layerstore.files import tree
from layerstore.keys import Record
from layerstore.transfer.merging import OnConflict
from tests.support.entries import (
    AT,
    GOLDEN_FILES,
    LISTS,
    MAPPINGS,
    File,
    directory_modes,
    entries,
    files_of,
    layer_key,
    write_file,
)
from tests.support.strategies import sha256


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids="umask-{:03o}".format)
def umask(request: pytest.FixtureRequest, golden: Path, sql_memory: SQLMetadataStore) -> Iterator[int]:
    """Each umask in turn; what the test begins with is made before."""
    assert golden.is_dir()
    assert sql_memory.path is None
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.mark.usefixtures("umask")
def test_import_and_export_give_the_same_directory(sql_memory: SQLMetadataStore, golden: Path, tmp_path: Path):
    """Equal in names, bytes, modes and times to the nanosecond, whatever the umask; `diff` and `verify` say so."""
    target = tmp_path / "root" / "image" / "distribution"
    import_directory(sql_memory, golden)

    report = export_directory(sql_memory, target)

    assert report == ExportReport(
        path=str(target),
        added=GOLDEN_FILES,
        merged=0,
        replaced=0,
        kept=0,
        unchanged=0,
        deleted=0,
        deleted_paths=(),
        extra=0,
        evicted=0,
        conflicts=(),
        conflict_count=0,
        skipped=(),
        skipped_count=0,
        quarantined=0,
        quarantine=None,
        dry_run=False,
    )
    assert report.written == GOLDEN_FILES
    assert report.ok
    assert files_of(target) == files_of(golden)
    assert directory_modes(target) == directory_modes(golden)
    assert directory_modes(target)["."] == 0o700
    assert set(directory_modes(target).values()) == {0o700, 0o755}
    for folder in (target.parent, target.parent.parent):
        assert directory_modes(folder)["."] == 0o700
    compared = diff(golden, target)
    assert (compared.ok, compared.equal, compared.times_differ) == (True, GOLDEN_FILES, 0)
    checked = verify(target)
    assert {found.severity for found in checked.findings} <= {"info"}


def test_every_kind_of_store_can_be_given_out(
    sql_store: SQLMetadataStore, files: FSMetadataStore, golden: Path, target: Path
):
    import_directory(sql_store, golden)
    assert export_directory(sql_store, files.path).written == GOLDEN_FILES

    assert export_directory(files, target).written == GOLDEN_FILES

    assert files_of(target) == files_of(golden)


def test_a_store_that_cannot_list_its_entries_cannot_be_given_out(target: Path):
    class Minimal:
        def get(self, _namespace: str, _key: str, /) -> bytes:
            return b""

        def set(self, _namespace: str, _key: str, _value: bytes, /) -> None: ...
        def delete(self, _namespace: str, _key: str, /) -> None: ...

    with pytest.raises(TransferError, match="Minimal cannot list its entries"):
        export_directory(Minimal(), target)
    assert not target.exists()


def test_files_that_are_right_already_are_not_touched(sql_file: SQLMetadataStore, golden: Path, target: Path):
    import_directory(sql_file, golden)
    export_directory(sql_file, target)
    before = {path: path.stat() for path in target.rglob("*")}

    report = export_directory(sql_file, target)

    assert (report.written, report.unchanged) == (0, GOLDEN_FILES)
    for path, status in before.items():
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns, now.st_ctime_ns) == (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


@pytest.mark.parametrize("wrong", ["bytes", "mode", "time", "missing"])
@pytest.mark.parametrize("on_conflict", ["merge", "replace"])
def test_a_file_that_is_wrong_is_written_and_no_other(
    sql_file: SQLMetadataStore, golden: Path, target: Path, wrong: str, on_conflict: OnConflict
):
    import_directory(sql_file, golden)
    export_directory(sql_file, target)
    wanted = files_of(target)
    inodes = {path: path.stat().st_ino for path in target.rglob("*")}
    path = target / sorted(wanted)[100]
    status = path.stat()
    if wrong == "bytes":
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    elif wrong == "mode":
        path.chmod(0o600)
    elif wrong == "time":
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns - 1))
    else:
        path.unlink()

    report = export_directory(sql_file, target, on_conflict=on_conflict)

    assert (report.written, report.unchanged) == (1, GOLDEN_FILES - 1)
    assert files_of(target) == wanted
    assert {other for other in inodes if other.stat().st_ino != inodes[other]} <= {path}


def test_files_that_the_store_does_not_have_stay_and_are_counted(sql_file: SQLMetadataStore, target: Path):
    sql_file.set("n", "k", b"")
    extra = write_file(target, "m", "extra", b"theirs")

    report = export_directory(sql_file, target)

    assert (report.written, report.extra, report.deleted) == (1, 1, 0)
    assert extra.read_bytes() == b"theirs"


def test_delete_removes_regular_files_with_valid_keys_and_nothing_else(
    sql_file: SQLMetadataStore, target: Path, tmp_path: Path
):
    outside = tmp_path / "outside"
    write_file(outside, "x", "y", b"outside")
    sql_file._put(Record("n", "k", b"", AT))
    write_file(target, "n", "extra", b"")
    write_file(target, LISTS, layer_key(1), entries(1))
    stay = [
        write_file(target, "n", ".tmp-left", b""),
        write_file(target, "n", ".tmp-folder/file", b""),
        write_file(target, ".tmp-namespace", "file", b""),
        target / "n" / "file-link",
        target / "n" / "folder-link",
        target / "namespace-link",
        target / "n" / "pipe",
        target / "README",
        target / "n" / "empty" / "folder",
        Path(os.fsdecode(os.fsencode(target) + b"/n/\xff")),
    ]
    (target / "n" / "file-link").symlink_to(outside / "x" / "y")
    (target / "n" / "folder-link").symlink_to(outside, target_is_directory=True)
    (target / "namespace-link").symlink_to(outside, target_is_directory=True)
    (target / "README").write_bytes(b"")
    (target / "n" / "empty" / "folder").mkdir(parents=True)
    os.mkfifo(target / "n" / "pipe")
    stay[-1].write_bytes(b"")

    report = export_directory(sql_file, target, on_conflict="replace", delete=True)

    assert (report.written, report.deleted, report.extra) == (1, 2, 0)
    assert (target / "n" / "k").is_file()
    assert not (target / "n" / "extra").exists()
    assert not (target / LISTS / layer_key(1)).exists()
    assert [path for path in stay if not os.path.lexists(path)] == []
    assert (outside / "x" / "y").read_bytes() == b"outside"


@pytest.mark.parametrize("exists", [False, True], ids=["no-directory", "directory"])
def test_a_dry_run_counts_the_same_and_writes_nothing(
    sql_file: SQLMetadataStore, golden: Path, target: Path, exists: bool
):
    import_directory(sql_file, golden)
    if exists:
        write_file(target, "n", "extra", b"")
        first = min(files_of(golden))
        namespace, _, key = first.partition("/")
        write_file(target, namespace, key, files_of(golden)[first].value, AT).chmod(0o600)
    before = files_of(target), directory_modes(target) if exists else target.exists()

    dry = export_directory(sql_file, target, on_conflict="replace", delete=True, dry_run=True)

    assert (files_of(target), directory_modes(target) if exists else target.exists()) == before
    assert dry.dry_run
    done = export_directory(sql_file, target, on_conflict="replace", delete=True)
    assert (dry.written, dry.unchanged, dry.deleted) == (done.written, done.unchanged, done.deleted)


def test_the_export_is_one_snapshot_and_keeps_no_writer_waiting(sql_file: SQLMetadataStore, golden: Path, target: Path):
    import_directory(sql_file, golden)
    v2 = V2MetadataService(sql_file)

    def progress(done: int, total: int | None) -> None:
        assert total == GOLDEN_FILES
        v2.add(sha256(done), V2Metadata(sha256(done)))

    export_directory(sql_file, target, progress=progress)

    assert files_of(target) == files_of(golden)
    assert len(list(sql_file.entries(MAPPINGS))) == GOLDEN_FILES // 2 + GOLDEN_FILES


def test_an_export_inside_a_transaction_gives_out_what_it_wrote(sql_store: SQLMetadataStore, target: Path):
    with sql_store.transaction():
        sql_store._put(Record("n", "k", b"not committed", AT))
        export_directory(sql_store, target)

    assert files_of(target) == {"n/k": File(b"not committed", 0o644, AT)}


def test_a_segment_of_239_bytes_can_be_given_out(sql_file: SQLMetadataStore, target: Path):
    """é is two bytes."""
    sql_file._put(Record("n" * 239, "é" * 119 + "/" + "k" * 239, b"value", AT))

    export_directory(sql_file, target)

    assert list(files_of(target).values()) == [File(b"value", 0o644, AT)]
    assert diff(sql_file, target, force=True).ok


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_a_full_disk_is_an_error_of_ours_and_leaves_no_temporary_files(
    sql_file: SQLMetadataStore, golden: Path, target: Path, monkeypatch: pytest.MonkeyPatch, there: bool
):
    def write_new(folder: int, name: str, value: bytes, modified_at_ns: int | None) -> None:
        if last in name:
            raise OSError(28, "No space left on device")
        real(folder, name, value, modified_at_ns)

    import_directory(sql_file, golden)
    last = max(files_of(golden)).rpartition("/")[2]
    if there:
        for namespace in golden.iterdir():
            (target / namespace.name / "sha256").mkdir(parents=True)
    real = tree.write_new
    with monkeypatch.context() as patched:
        patched.setattr(tree, "write_new", write_new)
        with pytest.raises(StoreFullError, match="free some space"):
            export_directory(sql_file, target)

    assert files_of(target) == {}
    assert sorted(path.name for path in target.iterdir()) == (sorted(p.name for p in golden.iterdir()) if there else [])
    assert export_directory(sql_file, target).written == GOLDEN_FILES
    assert files_of(target) == files_of(golden)


def test_a_namespace_that_somebody_makes_meanwhile_is_written_into(
    sql_file: SQLMetadataStore, golden: Path, target: Path
):
    """As a daemon does that begins to work while its directory is filled."""
    import_directory(sql_file, golden)
    path, newest = max(files_of(golden).items())
    namespace, _, key = path.partition("/")

    def make(done: int, _total: int | None) -> None:
        if done == GOLDEN_FILES:
            write_file(target, namespace, "sha256/another", b"a daemon's")
            write_file(target, namespace, key, b"older")

    export_directory(sql_file, target, progress=make)

    found = files_of(target)
    assert found.pop(f"{namespace}/sha256/another").value == b"a daemon's"
    assert found[path] == newest
    assert found == files_of(golden)
    assert [name for name in os.listdir(target) if name.startswith(".tmp-")] == []


def test_what_a_killed_export_left_is_removed(sql_file: SQLMetadataStore, golden: Path, target: Path):
    import_directory(sql_file, golden)
    export_directory(sql_file, target)
    write_file(target / ".tmp-layerstore", "n", "k", b"")

    export_directory(sql_file, target)

    assert not (target / ".tmp-layerstore").exists()


def test_what_an_export_that_goes_on_has_written_is_not_removed(
    sql_file: SQLMetadataStore, golden: Path, target: Path, tmp_path: Path
):
    """The second one waits for it: it begins while the first is told of the last key."""
    import_directory(sql_file, golden)
    exports = "import sys, layerstore as l; l.export_directory(l.SQLMetadataStore(sys.argv[1]), sys.argv[2])"
    others: list[subprocess.Popen[bytes]] = []

    def begin_another(done: int, _total: int | None) -> None:
        if done == GOLDEN_FILES:
            others.append(subprocess.Popen([sys.executable, "-c", exports, str(sql_file.path), str(target)]))
            with pytest.raises(subprocess.TimeoutExpired):
                others[0].wait(2)

    export_directory(sql_file, target, progress=begin_another)

    assert others[0].wait() == 0
    assert files_of(target) == files_of(golden)
    assert not (target / ".tmp-layerstore").exists()
