"""An archive is taken in as the directory that it was made from would be, whoever packed it and however."""

from __future__ import annotations

import os
import random
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import SQLMetadataStore, import_directory
from layerstore.keys import TEMPORARY_PREFIX
from tests.support.archives import (
    SECONDS,
    TREE,
    Save,
    archive,
    member,
    needs_tar,
    packed,
    plain_rows,
    rows_of_directory,
    tree_archive,
    write_tree,
)
from tests.support.command import Run
from tests.support.entries import GOLDEN_FILES, LISTS, MAPPINGS, V1, rows_of, sources_of
from tests.support.strategies import KEYS, SEGMENTS

FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
LAYOUTS = {
    "distribution": "distribution",
    "./distribution": "distribution",
    "": "",
    ".": "",
    "image/overlay2/distribution": "image/overlay2/distribution",
    "./image/vfs/distribution": "image/vfs/distribution",
    "var/lib/docker/image/overlay2/distribution": "var/lib/docker/image/overlay2/distribution",
    "231072.231072/image/overlay2/distribution": "231072.231072/image/overlay2/distribution",
    "backup of host a/distribution": "backup of host a/distribution",
}


@pytest.mark.parametrize(("prefix", "label"), LAYOUTS.items())
def test_the_directory_is_found_wherever_it_is_and_named(
    prefix: str, label: str, sql_memory: SQLMetadataStore, save: Save, expected: list[tuple[object, ...]]
):
    tree = {path: value for path, value in TREE.items() if prefix not in ("", ".") or not path.startswith("other")}
    parents = [member(prefix, type=tarfile.DIRTYPE)] if prefix else []
    path = save(archive(*parents, *(member(f"{prefix}/{name}".lstrip("/"), value) for name, value in tree.items())))

    report = import_directory(sql_memory, path)

    assert rows_of(sql_memory) == [row for row in expected if f"{row[0]}/{row[1]}" in tree]
    assert sources_of(report) == [f"{path}/{label}".rstrip("/")]
    assert (report.read, report.added, report.ok) == (len(tree), len(tree), True)


def test_several_drivers_and_users_in_one_archive_are_merged_in_order_and_counted_apart(
    sql_memory: SQLMetadataStore, save: Save
):
    roots = ["image/overlay2", "image/vfs", "231072.231072/image/overlay2"]
    members = [
        member(f"docker/{root}/distribution/n/{key}", root.encode(), mtime=SECONDS + number)
        for number, root in enumerate(roots)
        for key in ("shared", str(number))
    ]

    report = import_directory(sql_memory, save(archive(*members)))

    assert [(of.read, of.added, of.updated) for of in report.sources] == [(2, 2, 0), (2, 1, 1), (2, 1, 1)]
    assert [of.source.partition("given.tar/docker/")[2] for of in report.sources] == [
        f"{root}/distribution" for root in roots
    ]
    assert sql_memory.get("n", "shared") == roots[2].encode()
    assert len(report.conflicts) == 2


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_archive_is_known_by_its_bytes(
    compression: str, sql_memory: SQLMetadataStore, save: Save, expected: list[tuple[object, ...]]
):
    """Whatever it is called: a name says nothing, and standard input has none."""
    assert import_directory(sql_memory, save(tree_archive(mode=f"w:{compression}"))).ok
    assert rows_of(sql_memory) == expected


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("compression", ["", "gz"])
def test_the_command_reads_what_python_packs_from_standard_input(
    form: int, compression: str, run_process: Run, database: Path, expected: list[tuple[object, ...]]
):
    done = run_process("import", "-", stdin=tree_archive(mode=f"w:{compression}", form=form))

    assert (done.code, done.err) == (0, "")
    assert "imported standard input/distribution" in done.out
    with SQLMetadataStore(database) as store:
        assert rows_of(store) == expected


def test_the_command_reads_the_oldest_format_from_standard_input(run_process: Run, database: Path):
    """USTAR has room for ASCII and 255 characters only."""
    names = [path for path in TREE if path.isascii()]
    content = archive(*(member(f"distribution/{name}", TREE[name]) for name in names), form=tarfile.USTAR_FORMAT)

    assert run_process("import", "-", stdin=content).code == 0

    with SQLMetadataStore(database) as store:
        assert {f"{row[0]}/{row[1]}" for row in rows_of(store)} == set(names)


@needs_tar
@pytest.mark.parametrize("form", ["pax", "gnu"])
def test_the_command_reads_what_tar_packs_from_standard_input(form: str, run_process: Run, database: Path, tree: Path):
    """Also sorted otherwise than a store, as directories are read."""
    content = packed(tree.parent, f"--format={form}", "distribution")

    assert run_process("import", "-", stdin=content).code == 0

    wanted = rows_of_directory(tree)
    if form == "gnu":  # it has no room for nanoseconds
        wanted = [(*row[:3], int(str(row[3])) // 10**9 * 10**9) for row in wanted]
    with SQLMetadataStore(database) as store:
        assert rows_of(store) == wanted


@needs_tar
def test_a_real_directory_comes_out_of_tar_with_its_times_to_the_nanosecond(
    sql_memory: SQLMetadataStore, golden: Path, save: Save
):
    path = save(packed(golden.parent, "-z", "--format=posix", f"./{golden.name}", "--transform=s/golden/distribution/"))

    assert import_directory(sql_memory, path).read == GOLDEN_FILES
    assert rows_of(sql_memory) == rows_of_directory(golden)


@needs_tar
def test_files_with_holes_are_taken_whole(sql_memory: SQLMetadataStore, tmp_path: Path, save: Save):
    path = tmp_path / "distribution" / "n" / "holes"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for at in (0, 1 << 20, 3 << 20):
            file.seek(at)
            file.write(b"data")
    content = packed(tmp_path, "-S", "distribution")
    assert len(content) < 1 << 20  # it was packed as a file with holes

    assert import_directory(sql_memory, save(content)).ok
    assert sql_memory.get("n", "holes") == path.read_bytes()


TIMES = {
    "1700000000.123456789": 1_700_000_000_123_456_789,
    "1700000000.1234567899": 1_700_000_000_123_456_789,
    "1700000000": 1_700_000_000_000_000_000,
    "1.5": 1_500_000_000,
    "0.000000001": 1,
    "-1.5": -1_500_000_000,
    "9999999999": 2**63 - 1,
    "1e999990": 2**63 - 1,
    "-1e999990": -(2**63),
    "1e-999990": 0,
}


@pytest.mark.parametrize(("text", "at"), TIMES.items())
def test_a_pax_record_gives_the_time_to_the_nanosecond(text: str, at: int, sql_memory: SQLMetadataStore, save: Save):
    import_directory(sql_memory, save(archive(member("distribution/n/k", pax_headers={"mtime": text}))))

    assert [record.modified_at_ns for record in sql_memory._records()] == [at]


def test_the_order_of_the_members_does_not_matter(
    sql_memory: SQLMetadataStore, save: Save, expected: list[tuple[object, ...]]
):
    """A file may come before its directory, and namespaces may be mixed."""
    members = [member(f"distribution/{path}", value) for path, value in TREE.items()]
    members += [member("distribution", type=tarfile.DIRTYPE), member(f"distribution/{V1}", type=tarfile.DIRTYPE)]
    random.Random(4).shuffle(members)

    import_directory(sql_memory, save(archive(*members)))

    assert rows_of(sql_memory) == expected


def test_other_files_of_a_data_root_are_no_entries(sql_memory: SQLMetadataStore, save: Save):
    """An archive of `image`, as the README makes one, holds the image and layer databases of the daemon too."""
    others = [
        "image/overlay2/imagedb/content/sha256/" + "a" * 64,
        "image/overlay2/layerdb/sha256/" + "b" * 64 + "/diff",
        "image/overlay2/repositories.json",
    ]
    tree = [member(f"image/overlay2/distribution/{path}", value) for path, value in TREE.items()]

    report = import_directory(sql_memory, save(archive(*map(member, others), *tree)))

    assert plain_rows(sql_memory) == sorted((*path.split("/", 1), value) for path, value in TREE.items())
    assert report.read == len(TREE)


def test_files_of_a_whole_data_root_beside_image_are_no_entries(sql_memory: SQLMetadataStore, save: Save):
    others = ["overlay2/abc/diff/etc/passwd", "containers/abc/config.v2.json", "volumes/metadata.db", "engine-id"]
    members = [member(f"var/lib/docker/{name}") for name in others]
    members.append(member("var/lib/docker/image/overlay2/distribution/n/k", b"kept"))

    import_directory(sql_memory, save(archive(*members)))

    assert plain_rows(sql_memory) == [("n", "k", b"kept")]


@needs_tar
def test_an_archive_of_a_data_root_is_taken_as_the_data_root_itself(run_process: Run, database: Path, tmp_path: Path):
    """`tar -C /var/lib/docker -c image | layerstore import -`, the README's first story, finds nothing amiss."""
    root = tmp_path / "docker"
    write_tree(root / "image" / "overlay2" / "distribution")
    for other in ("image/overlay2/imagedb/content/sha256/abc", "image/overlay2/repositories.json"):
        (root / other).parent.mkdir(parents=True, exist_ok=True)
        (root / other).write_bytes(b"{}")

    done = run_process("import", "-", stdin=packed(root, "--format=pax", "image"))

    assert (done.code, done.err) == (0, "")
    with SQLMetadataStore(database) as store:
        assert rows_of(store) == rows_of_directory(root)


_PATHS = st.tuples(st.sampled_from([LISTS, MAPPINGS, V1, "n"]) | SEGMENTS.filter(lambda s: s != "image"), KEYS)
_TREES = st.dictionaries(
    _PATHS.map("/".join), st.tuples(st.binary(max_size=40), st.sampled_from(["file", "link", "temporary"])), max_size=8
)


def _write_odd_tree(base: Path, tree: dict[str, tuple[bytes, str]]) -> None:
    """Write what can be written of it: one path may be the directory of another."""
    for number, (path, (value, kind)) in enumerate(tree.items()):
        parent, _, name = path.rpartition("/")
        target = base / parent / (f"{TEMPORARY_PREFIX}{name}" if kind == "temporary" else name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to("/") if kind == "link" else target.write_bytes(value)
        except OSError:
            continue
        if kind != "link":
            os.utime(target, ns=((SECONDS + number) * 10**9,) * 2)


@given(_TREES, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_any_tree_packed_and_taken_in_is_the_tree_taken_in(tree: dict[str, tuple[bytes, str]], form: int):
    """Rows, times, quarantine, and how many files are skipped or temporary."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SQLMetadataStore(":memory:") as one,
        SQLMetadataStore(":memory:") as other,
    ):
        base = Path(folder) / "distribution"
        base.mkdir()
        _write_odd_tree(base, tree)
        with tarfile.open(Path(folder) / "packed", "w", format=form) as tar:
            tar.add(base, "distribution")

        directly, packed_ = import_directory(one, base), import_directory(other, Path(folder) / "packed")

        assert rows_of(other) == rows_of(one)
        assert [len(found) for found in (packed_.skipped, packed_.quarantined)] == [
            len(found) for found in (directly.skipped, directly.quarantined)
        ]
        assert (packed_.read, packed_.temporary, packed_.ok) == (directly.read, directly.temporary, directly.ok)
