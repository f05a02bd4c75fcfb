"""Docker's directory made of both: what Docker has recorded, and what other engines know."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import (
    FSMetadataStore,
    InvalidInputError,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    diff,
    export_directory,
    export_layers,
    import_directory,
    import_layers,
    verify,
)
from layerstore.blobs import BlobRecord, encode
from layerstore.keys import BLOBS, Record
from tests.conftest import OpenSQL
from tests.support.entries import AT, files_of, layer_key, whole
from tests.support.strategies import sha256
from tests.transfer.prune.conftest import HUB, OLD, OURS, a_list, fill, fill_directory, mapping


def known(number: int, locations: dict[str, int | None], **fields: object) -> Record:
    blob = BlobRecord(locations=locations, **fields)  # type: ignore[arg-type]
    return Record(BLOBS, layer_key(number), encode(blob), blob.modified_at_ns)


def gzip(number: int, layer: int, **locations: int | None) -> Record:
    names = {"ours": OURS, "hub": HUB, "old": OLD}
    found = {names[name]: at for name, at in locations.items()}
    return known(number, found, diff_id=sha256(layer), compression="gzip")


def listed(base: Path, layer: int) -> list[tuple[str, str]]:
    found = V2MetadataService(FSMetadataStore(base)).get_metadata(sha256(layer))
    return [(entry.digest, entry.source_repository) for entry in found]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "distribution"


def test_places_of_other_engines_become_lists_and_mappings(sql_file: SQLMetadataStore, base: Path):
    fill(sql_file, [gzip(1, 9, ours=AT + 2, hub=None, old=AT), gzip(2, 9, hub=AT + 1), gzip(3, 8)])

    report = export_directory(sql_file, base)

    assert (report.added, report.left_out, report.ok) == (4, {}, True)
    assert listed(base, 9) == [(sha256(1), HUB), (sha256(1), OLD), (sha256(2), HUB), (sha256(1), OURS)]
    mappings = FSMetadataStore(base).get_many("diffid-by-digest", [layer_key(number) for number in (1, 2, 3)])
    assert list(mappings.values()) == [sha256(9).encode()] * 2 + [sha256(8).encode()]
    assert not (base / BLOBS).exists()
    assert (base / "v2metadata-by-diffid" / layer_key(9)).stat().st_mtime_ns == AT + 2
    before = files_of(base)
    again = export_directory(sql_file, base)
    assert (again.written, again.unchanged) == (0, 4)
    assert files_of(base) == before


def test_they_only_fill_what_dockers_own_entries_leave(sql_file: SQLMetadataStore, base: Path):
    own = [(1000 + number, f"h.io/own{number}") for number in range(48)]
    fill(sql_file, [a_list(9, *own), *(mapping(number, 9) for number, _ in own)])
    fill(sql_file, [gzip(1, 9, ours=AT + 9, hub=AT + 8, old=AT + 7), gzip(1000, 9, ours=AT + 1)])
    stored = whole(sql_file)

    export_directory(sql_file, base)

    assert listed(base, 9) == [
        (sha256(1), HUB),
        (sha256(1), OURS),
        *((sha256(number), name) for number, name in own),
    ]
    assert whole(sql_file) == stored
    assert (base / "v2metadata-by-diffid" / layer_key(9)).stat().st_mtime_ns == AT


def test_a_diff_id_that_is_learned_later_completes_a_place(sql_file: SQLMetadataStore, base: Path):
    fill(sql_file, [known(1, {OURS: AT}, compression="gzip")])
    report = export_directory(sql_file, base)
    assert report.left_out == {"no engine has verified which layer it is": 1}
    assert files_of(base) == {}

    V2MetadataService(sql_file).add(sha256(9), V2Metadata(sha256(1), HUB, "f" * 64))
    assert export_directory(sql_file, base).left_out == {}

    assert listed(base, 9) == [(sha256(1), OURS), (sha256(1), HUB)]


def test_what_is_not_certainly_gzip_or_contradicts_is_left_out(sql_file: SQLMetadataStore, base: Path):
    fill(
        sql_file,
        [
            known(1, {OURS: AT}, diff_id=sha256(9)),
            known(2, {OURS: AT}, diff_id=sha256(9), compression="zstd"),
            known(3, {OURS: AT}, diff_id=sha256(3), compression="uncompressed"),
            known(4, {OURS: AT}, diff_id=sha256(9), conflicts={"Compression": ("gzip", "zstd")}),
            gzip(5, 9, ours=AT),
            mapping(5, 8),
            a_list(8, (5, HUB)),
            Record(BLOBS, layer_key(6), b"[", AT),
            known(7, {OURS: AT}, diff_id=sha256(7)),
        ],
    )

    report = export_directory(sql_file, base)

    assert report.left_out == {
        "its compression is not known": 2,
        "Docker's directory is for gzip, and it is zstd": 1,
        "Docker's directory is for gzip, and it is uncompressed": 1,
        "sources disagree about the Compression": 1,
        "sources disagree about the DiffID": 1,
    }
    assert set(files_of(base)) == {
        f"v2metadata-by-diffid/{layer_key(8)}",
        f"diffid-by-digest/{layer_key(5)}",
    }
    assert listed(base, 8) == [(sha256(5), HUB)]


def test_a_compression_is_assumed_only_when_told_and_only_of_layers(sql_file: SQLMetadataStore, base: Path):
    fill(
        sql_file, [known(1, {OURS: AT}, diff_id=sha256(9)), known(7, {OURS: AT}, diff_id=sha256(7)), known(8, {HUB: 1})]
    )

    export_directory(sql_file, base, assume_compression="gzip")

    assert set(files_of(base)) == {f"v2metadata-by-diffid/{layer_key(9)}", f"diffid-by-digest/{layer_key(1)}"}
    with pytest.raises(InvalidInputError, match="gzip"):
        export_directory(sql_file, base, assume_compression="zstd")


def test_all_namespaces_go_and_come_back(sql_file: SQLMetadataStore, base: Path, open_sql: OpenSQL, tmp_path: Path):
    fill(sql_file, [gzip(1, 9, ours=AT), known(2, {HUB: None})])

    export_directory(sql_file, base, all_namespaces=True)

    back = open_sql(tmp_path / "back.db")
    import_directory(back, base)
    found = {found.namespace for found in diff(sql_file, back).only_right}
    assert found == {"diffid-by-digest", "v2metadata-by-diffid"}
    assert diff(sql_file, back).only_left == ()
    assert diff(sql_file, back).differing == ()


def test_what_another_host_has_in_the_directory_stays(sql_file: SQLMetadataStore, base: Path):
    fill_directory(base, [a_list(9, (1, OLD), (1, OURS)), mapping(1, 9)])
    fill(sql_file, [gzip(1, 9, ours=AT, hub=AT)])

    export_directory(sql_file, base)

    assert set(listed(base, 9)) == {(sha256(1), OLD), (sha256(1), OURS), (sha256(1), HUB)}


def test_a_directory_is_a_source_too(base: Path, tmp_path: Path):
    fill_directory(base, [gzip(1, 9, ours=AT)])

    export_directory(FSMetadataStore(base), tmp_path / "other" / "distribution")

    assert listed(tmp_path / "other" / "distribution", 9) == [(sha256(1), OURS)]


def test_an_unreadable_list_stays_as_it_is(sql_file: SQLMetadataStore, base: Path):
    fill(sql_file, [gzip(1, 9, ours=AT), Record("v2metadata-by-diffid", layer_key(9), b"[", AT)])

    export_directory(sql_file, base)

    assert (base / "v2metadata-by-diffid" / layer_key(9)).read_bytes() == b"["


def test_a_store_goes_into_a_store(sql_file: SQLMetadataStore, open_sql: OpenSQL, tmp_path: Path):
    fill(sql_file, [gzip(1, 9, ours=AT), a_list(9, (1, HUB)), mapping(1, 9)])
    other = open_sql(tmp_path / "other.db")

    trial = export_layers(sql_file, other, dry_run=True)
    assert (trial.added, len(list(other.entries()))) == (3, 0)
    done = export_layers(sql_file, tmp_path / "other.db")

    assert (done.added, done.written, done.ok) == (3, 3, True)
    assert diff(sql_file, other).ok
    assert export_layers(sql_file, other).unchanged == 3


def test_a_url_is_a_database_as_source_and_target(
    sql_file: SQLMetadataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(sql_file, [gzip(1, 9, ours=AT), a_list(9, (1, HUB)), mapping(1, 9)])
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/other.db"

    assert export_layers(sql_file, url, dry_run=True).added == 3
    assert not (tmp_path / "other.db").exists()
    assert export_layers(sql_file, url).added == 3
    assert diff(url, sql_file).ok
    assert verify(url).checked == 3
    with SQLMetadataStore(":memory:") as store:
        assert import_layers(store, url).added == 3
    assert export_layers(sql_file, Path(url)).written == 2  # a path is a directory of that name


def test_a_url_of_a_server_is_a_database_as_source_and_target(sql_file: SQLMetadataStore, postgresql_url: str):
    fill(sql_file, [gzip(1, 9, ours=AT), a_list(9, (1, HUB)), mapping(1, 9)])

    assert (export_layers(sql_file, postgresql_url).added, export_layers(sql_file, postgresql_url).unchanged) == (3, 3)
    assert diff(postgresql_url, sql_file).ok
    with SQLMetadataStore(":memory:") as store:
        assert import_layers(store, postgresql_url).added == 3


def test_a_trial_import_says_what_would_be_and_changes_nothing(sql_file: SQLMetadataStore, base: Path):
    fill(sql_file, [gzip(1, 9, ours=AT)])
    fill_directory(base, [gzip(1, 9, hub=AT), gzip(2, 9, hub=AT), Record(BLOBS, layer_key(3), b"[", AT)])
    before = whole(sql_file)

    report = import_layers(sql_file, base, dry_run=True)

    assert (report.added, report.updated, report.quarantined_count) == (1, 1, 1)
    assert whole(sql_file) == before
    assert import_layers(sql_file, base).added == 1


def test_options_that_do_not_go_with_the_target_are_refused(sql_file: SQLMetadataStore, base: Path, tmp_path: Path):
    with pytest.raises(InvalidInputError, match="containerd"):
        export_layers(sql_file, base, images=["a"])
    with pytest.raises(InvalidInputError, match="delete goes with a directory"):
        export_layers(sql_file, tmp_path / "blob-info-cache-v1.sqlite", delete=True, on_conflict="replace")
    with pytest.raises(InvalidInputError, match="merged into only"):
        export_layers(sql_file, tmp_path / "blob-info-cache-v1.sqlite", on_conflict="replace")
    with pytest.raises(InvalidInputError, match="nothing to import"):
        import_layers(sql_file)
