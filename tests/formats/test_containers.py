"""The cache of Podman and Skopeo: files of real ones read whole, and written so that those programs can go on."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from layerstore import Digest, TransferError
from layerstore.blobs import BlobRecord, merge
from layerstore.collection import Odd
from layerstore.formats import bbolt, containers
from layerstore.formats.facts import Facts
from tests.formats import bolt
from tests.formats.test_bbolt import damage

ENGINES = Path(__file__).parent.parent / "golden" / "engines"
CACHES = sorted(ENGINES.glob("*.sqlite"))
BOLT = ENGINES / "skopeo-1.9.3-gzip-preserved.boltdb"

TABLES = {
    "DigestUncompressedPairs": ("anyDigest", "uncompressedDigest"),
    "DigestCompressors": ("digest", "compressor"),
    "KnownLocations": ("transport", "scope", "digest", "location", "time"),
    "DigestTOCUncompressedPairs": ("tocDigest", "uncompressedDigest"),
    "DigestSpecificVariantCompressors": ("digest", "specificVariantCompressor", "specificVariantAnnotations"),
}


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def all_rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Read all tables of a cache, without the package."""
    with closing(sqlite3.connect(path)) as connection:
        return {name: sorted(connection.execute(f"SELECT {', '.join(TABLES[name])} FROM {name}")) for name in TABLES}


def known(facts: Facts) -> dict[Digest, BlobRecord]:
    """Merge what a reader yields, which must leave nothing out."""
    found: dict[Digest, BlobRecord] = {}
    for fact in facts:
        assert not isinstance(fact, Odd), fact
        blob, record = fact
        found[blob] = merge(found.get(blob, BlobRecord()), record)
    return found


def new_cache(path: Path, *statements: str) -> Path:
    """Make a cache with rows, as Skopeo would."""
    containers.write(str(path), [])
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return path


def location(number: int, repository: str, time: object) -> str:
    return (
        f"INSERT INTO KnownLocations VALUES ('docker', '{repository.partition('/')[0]}', '{digest(number)}',"
        f" '{repository}', {time!r})"
    )


# Reading


@pytest.mark.parametrize("path", CACHES, ids=[path.stem for path in CACHES])
def test_what_a_real_cache_knows_is_what_a_new_one_gets(path: Path, tmp_path: Path):
    found = known(containers.read_sqlite(str(path)))
    copy = tmp_path / "cache" / containers.NAME
    written = containers.write(str(copy), found.items())

    assert all_rows(copy) == all_rows(path)
    assert (written.added, written.updated, written.unchanged) == (len(found), 0, 0)
    assert not written.left_out
    again = containers.write(str(copy), known(containers.read_sqlite(str(copy))).items())
    assert (again.added, again.updated, again.unchanged) == (0, 0, len(found))
    assert all_rows(copy) == all_rows(path)


@pytest.mark.parametrize("path", CACHES, ids=[path.stem for path in CACHES])
def test_what_is_written_is_what_the_programs_make(path: Path, tmp_path: Path):
    """The same tables with the same columns and declared types; the same indexes; no version, no WAL; private."""

    def schema(path: Path) -> list[object]:
        with closing(sqlite3.connect(path)) as connection:
            columns = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in TABLES}
            indexes = {name: connection.execute(f"PRAGMA index_list({name})").fetchall() for name in TABLES}
            pragmas = ("journal_mode", "user_version", "application_id", "encoding", "auto_vacuum")
            return [columns, indexes, [connection.execute(f"PRAGMA {name}").fetchone() for name in pragmas]]

    made = tmp_path / "made" / "cache" / containers.NAME
    containers.write(str(made), [])

    assert schema(made) == schema(path)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    assert os.listdir(made.parent) == [made.name]


def test_a_real_cache_in_boltdb_is_read():
    found = known(containers.read_bolt(bbolt.read(str(BOLT))))

    assert len(found) == 3
    assert sorted(record.compression or "" for record in found.values()) == ["gzip", "gzip", "uncompressed"]
    places = {"127.0.0.1:27889/bookworm/one", "127.0.0.1:27889/bookworm/two"}
    assert all(record.locations.keys() == places for record in found.values())
    # As `date -u` has the seconds since the year 1 of the first time in the file: 0x0ee29a9eee, and 0x0ea46285 ns.
    assert (
        found[Digest("sha256:68b701e8a0ee9548753228dfb9debc0ff089bd2e7ad6cc9646439fad9f9e708f")].locations[
            "127.0.0.1:27889/bookworm/one"
        ]
        == (0x0EE29A9EEE - 62_135_596_800) * 10**9 + 0x0EA46285
    )


def test_all_that_a_cache_in_boltdb_can_hold_is_read(tmp_path: Path):
    one, other, toc = (str(digest(number)).encode() for number in (1, 2, 3))
    annotations = b'{"io.github.containers.zstd-chunked.manifest-checksum":"%s"}' % toc
    path = bolt.write(
        tmp_path / "cache.boltdb",
        {
            b"uncompressedDigest": {one: other, other: other},
            b"digestByUncompressed": {other: {one: b"", other: b""}},
            b"digestCompressor": {one: b"zstd", other: b"Xz"},
            b"digestSpecificVariantCompressor": {one: b"zstd:chunked\0" + annotations},
            b"uncompressedDigestByTOC": {toc: other},
            b"knownLocations": {b"docker": {b"h:1": {one: {b"h:1/a": go_time(1, 5), b"h:1/b": b"garbage"}}}},
        },
    )

    assert known(containers.read_bolt(bbolt.read(str(path)))) == {
        digest(1): BlobRecord(
            diff_id=digest(2),
            compression="zstd",
            variant="zstd:chunked",
            annotations={"io.github.containers.zstd-chunked.manifest-checksum": str(digest(3))},
            toc=digest(3),
            locations={"h:1/a": 1_000_000_005, "h:1/b": None},
        ),
        digest(2): BlobRecord(diff_id=digest(2), compression="xz"),
    }


def go_time(seconds: int, nanoseconds: int, *, zone_minutes: int = -1) -> bytes:
    return struct.pack(">BqIh", 1, seconds + 62_135_596_800, nanoseconds, zone_minutes)


def test_a_diff_id_that_boltdb_has_in_one_direction_only_is_damage(tmp_path: Path):
    one, other = (str(digest(number)).encode() for number in (1, 2))
    path = bolt.write(
        tmp_path / "cache.boltdb",
        {b"uncompressedDigest": {one: other}, b"digestByUncompressed": {one: {one: b""}}},
    )
    with pytest.raises(TransferError, match="not recorded in both directions"):
        list(containers.read_bolt(bbolt.read(str(path))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-26 21:43:11.02529397+00:00", 1_795_729_391_025_293_970),
        ("2026-11-27 03:28:11.02529397+05:45", 1_795_729_391_025_293_970),
        ("2026-11-26 16:43:11.02529397-05:00", 1_795_729_391_025_293_970),
        ("2026-11-26 16:13:11.02529397-05:30", 1_795_729_391_025_293_970),
        ("2026-11-26T21:43:11.02529397Z", 1_795_729_391_025_293_970),
        ("2026-11-26 21:43:11", 1_795_729_391_000_000_000),
        ("0001-01-01 00:00:00+00:00", None),
        ("2026-02-30 00:00:00+00:00", None),
        ("9999-12-31 23:59:59+00:00", None),
        ("2026-11-26 21:43:11.1234567890+00:00", None),
        ("", None),
        ("yesterday", None),
        (1_795_729_391, None),
        (None, None),
        (b"2026-11-26 21:43:11", None),
    ],
)
def test_a_time_is_an_instant_or_none(text: object, expected: int | None):
    assert containers.seen_at_ns(text) == expected


def test_times_of_go_are_instants_whatever_their_zone():
    assert bbolt.time_ns(go_time(1, 5)) == bbolt.time_ns(go_time(1, 5, zone_minutes=345)) == 1_000_000_005
    assert bbolt.time_ns(go_time(0, 10**9)) is None
    assert bbolt.time_ns(go_time(2**62, 0)) is None
    assert bbolt.time_ns(b"") is None
    assert bbolt.time_ns(b"\3" + bytes(14)) is None


def test_odd_times_are_no_time_and_odd_rows_are_said(tmp_path: Path):
    path = new_cache(
        tmp_path / containers.NAME,
        location(1, "h:1/a", 1_795_729_391),
        location(1, "h:1/b", ""),
        location(1, "h:1/c", "2026-11-26 21:43:11"),
        location(2, "noHost", "2026-11-26 21:43:11"),
        "INSERT INTO KnownLocations VALUES ('docker', 'h:1', 'sha256:1', 'h:1/a', '')",
        f"INSERT INTO KnownLocations VALUES ('docker', 'h:1', '{digest(3)}', 'h:2/a', '')",
        f"INSERT INTO KnownLocations VALUES ('atomic', 'h:1', '{digest(4)}', 'h:1/a', '')",
        f"INSERT INTO DigestCompressors VALUES ('{digest(5)}', 'lz4')",
        f"INSERT INTO DigestUncompressedPairs VALUES ('{digest(6)}', x'ff')",
        f"INSERT INTO DigestUncompressedPairs VALUES ('{digest(7)}', 'sha256:{'A' * 64}')",
        f"INSERT INTO DigestSpecificVariantCompressors VALUES ('{digest(8)}', 'zstd:chunked', '[')",
        f"INSERT INTO DigestSpecificVariantCompressors VALUES ('{digest(9)}', 'other', '{{}}')",
        f"INSERT INTO DigestTOCUncompressedPairs VALUES ('{digest(10)}', '{digest(11)}')",
    )
    found = list(containers.read_sqlite(str(path)))
    odd = {fact.path: fact for fact in found if isinstance(fact, Odd)}

    assert [fact for fact in found if not isinstance(fact, Odd)] == [
        (digest(1), BlobRecord(locations={"h:1/a": None, "h:1/b": None, "h:1/c": 1_795_729_391_000_000_000}))
    ]
    assert odd.keys() == {"sha256:1", "tables of contents", *(digest(number) for number in range(2, 10))}
    assert "not a repository name" in odd[digest(2)].reason
    assert "not at the registry 'h:1'" in odd[digest(3)].reason
    assert "of no registry" in odd[digest(4)].reason
    assert "unknown compressor: 'lz4'" in odd[digest(5)].reason
    assert {one.kind for one in odd.values()} == {"unreadable", "uncertain"}
    assert odd["tables of contents"].kind == "uncertain"


def test_a_cache_of_before_variants_were_known_is_read_and_completed(tmp_path: Path):
    path = new_cache(
        tmp_path / containers.NAME,
        "DROP TABLE DigestTOCUncompressedPairs",
        "DROP TABLE DigestSpecificVariantCompressors",
        f"INSERT INTO DigestCompressors VALUES ('{digest(1)}', 'zstd:chunked')",
    )
    assert known(containers.read_sqlite(str(path))) == {digest(1): BlobRecord(compression="zstd")}

    chunked = BlobRecord(compression="zstd", variant="zstd:chunked", annotations={"a": "b"}, locations={"h/a": 1})
    written = containers.write(str(path), [(digest(1), chunked)])
    assert (written.updated, written.differences.count) == (1, 0)
    assert all_rows(path)["DigestCompressors"] == [(digest(1), "zstd:chunked")]


def test_layers_of_a_storage_are_pairs_with_their_compression(tmp_path: Path):
    assert known(containers.read_layers(str(ENGINES / "podman-5.8.6-vfs-layers.json"))) == {
        Digest("sha256:de91df6e445674baa02d3d8bafd214de7f2a70723362d65d2a7dafdf921d580a"): BlobRecord(
            diff_id="sha256:cc14dee68e5995122b15be6ea9f88a829d4acc4923866c1c6617bb5efe51deb0", compression="gzip"
        ),
        Digest("sha256:e3c9bb349334406633c868e269cc6c3118bd277e7c5465e1346e335f4390f19c"): BlobRecord(
            diff_id="sha256:510fc0b9b024fbc2c0bc133ffbec36333b382da729ee7725b1d0e48e0c8a79a4", compression="gzip"
        ),
    }
    layers = [
        f'{{"id":"a","compressed-diff-digest":"{digest(1)}","diff-digest":"{digest(2)}","compression":4}}',
        f'{{"id":"b","compressed-diff-digest":"{digest(3)}","diff-digest":"{digest(4)}"}}',
        f'{{"id":"c","compressed-diff-digest":"{digest(5)}","diff-digest":"{digest(5)}"}}',
        f'{{"id":"in parts","compressed-diff-digest":"{digest(6)}","diff-digest":"{digest(7)}","toc-digest":"x"}}',
        '{"id":"made here"}',
        f'{{"id":"odd","compressed-diff-digest":"sha256:1","diff-digest":"{digest(8)}"}}',
    ]
    (tmp_path / "layers.json").write_text(f"[{','.join(layers)}]")
    found = list(containers.read_layers(str(tmp_path), "layers.json"))

    assert found[:3] == [
        (digest(1), BlobRecord(diff_id=digest(2), compression="zstd")),
        (digest(3), BlobRecord(diff_id=digest(4))),  # 0 also says that nobody told
        (digest(5), BlobRecord(diff_id=digest(5), compression="uncompressed")),
    ]
    assert [one.path for one in found[3:] if isinstance(one, Odd)] == ["odd"]
    assert len(found) == 4


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"id":1}]', "[" * 100_000])
def test_what_is_no_storage_is_refused(content: str, tmp_path: Path):
    (tmp_path / "layers.json").write_text(content)
    with pytest.raises(TransferError, match="not the layers"):
        list(containers.read_layers(str(tmp_path / "layers.json")))


# Writing


def test_nothing_that_a_cache_knows_is_changed_but_an_earlier_time(tmp_path: Path):
    path = new_cache(
        tmp_path / containers.NAME,
        f"INSERT INTO DigestUncompressedPairs VALUES ('{digest(1)}', '{digest(2)}')",
        f"INSERT INTO DigestCompressors VALUES ('{digest(1)}', 'gzip')",
        f"INSERT INTO DigestUncompressedPairs VALUES ('{digest(3)}', '{digest(2)}')",
        f"INSERT INTO DigestCompressors VALUES ('{digest(4)}', 'gzip')",
        location(5, "h:1/older", "1970-01-01 05:45:01+05:45"),  # 1 s, though as text it is later than any of that day
        location(5, "h:1/later", "2026-11-26 21:43:11+00:00"),
        location(5, "h:1/none", 7),
        "CREATE TABLE others(x)",
        "INSERT INTO others VALUES (1)",
    )
    before = all_rows(path)
    two_s = 2_000_000_000
    written = containers.write(
        str(path),
        [
            (digest(1), BlobRecord(diff_id=digest(2), compression="gzip")),
            (digest(3), BlobRecord(diff_id=digest(9), compression="gzip", locations={"h:1/x": 1})),
            (digest(4), BlobRecord(diff_id=digest(9), compression="zstd", locations={"h:1/x": 1})),
            (digest(5), BlobRecord(locations=dict.fromkeys(["h:1/older", "h:1/later", "h:1/none"], two_s))),
            (digest(6), BlobRecord(conflicts={"DiffID": (digest(1), digest(2))}, locations={"h:1/x": 1})),
        ],
    )

    assert (written.added, written.updated, written.unchanged) == (1, 0, 1)
    assert [(one.path, one.reason) for one in written.differences.first] == [
        (digest(3), f"the target says DiffID {digest(2)}, the store {digest(9)}"),
        (digest(4), "the target says Compression gzip, the store zstd"),
    ]
    assert written.left_out == {
        "sources disagree about the blob": 1,
        "the compression, as it is not known: without it, Podman and Skopeo use no location": 1,
    }
    after = all_rows(path)
    locations = [(row[3], row[4]) for row in after.pop("KnownLocations")]
    assert locations == [
        ("h:1/later", "2026-11-26 21:43:11+00:00"),
        ("h:1/none", "1970-01-01 00:00:02+00:00"),
        ("h:1/older", "1970-01-01 00:00:02+00:00"),
    ]
    del before["KnownLocations"]
    assert after == before


def test_a_dry_run_counts_the_same_and_writes_nothing(tmp_path: Path):
    path = new_cache(tmp_path / containers.NAME, location(1, "h:1/a", ""))
    facts = [(digest(number), BlobRecord(compression="gzip", locations={"h:1/a": 5})) for number in range(5)]
    before = path.read_bytes()
    tried = containers.write(str(path), facts, dry_run=True)
    nowhere = tmp_path / "no" / containers.NAME
    elsewhere = containers.write(str(nowhere), facts, dry_run=True)

    assert path.read_bytes() == before
    assert not nowhere.parent.exists()
    assert tried == containers.write(str(path), facts)
    assert (tried.added, tried.updated) == (4, 1) if tried.updated else (5, 0)
    assert elsewhere.added == 5


def test_the_journal_mode_stays_what_it_is(tmp_path: Path):
    for mode in ("delete", "wal", "truncate"):
        path = new_cache(tmp_path / mode)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {mode}")
        containers.write(str(path), [(digest(1), BlobRecord(locations={"h/a": 1}))])
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal" if mode == "wal" else "delete",)


@pytest.mark.parametrize("kind", ["other database", "text", "directory", "pipe", "boltdb"])
def test_what_is_no_cache_is_neither_read_nor_written(kind: str, tmp_path: Path):
    path = tmp_path / containers.NAME
    if kind == "other database":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE t(x)")
            connection.execute("CREATE VIEW KnownLocations AS SELECT * FROM t")
    elif kind == "text":
        path.write_text("text\n" * 1000)
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(BOLT.read_bytes())
    before = path.read_bytes() if path.is_file() else b""

    for use in (lambda: list(containers.read_sqlite(str(path))), lambda: containers.write(str(path), [])):
        with pytest.raises(TransferError, match=str(path)):
            use()
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_a_file_that_is_not_there_is_not_read(tmp_path: Path):
    with pytest.raises(TransferError, match="No such file"):
        list(containers.read_sqlite(str(tmp_path / "cache")))


def test_an_interrupted_write_keeps_whole_transactions_and_is_completed(tmp_path: Path):
    path = tmp_path / containers.NAME
    facts = [(digest(n), BlobRecord(compression="gzip", locations={"h:1/a": n, "h:1/b": n})) for n in range(4500)]

    def interrupted() -> Iterator[tuple[Digest, BlobRecord]]:
        yield from facts[:4200]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        containers.write(str(path), interrupted())
    assert len(all_rows(path)["DigestCompressors"]) == 4000

    written = containers.write(str(path), facts)
    assert (written.added, written.unchanged) == (500, 4000)
    assert len(all_rows(path)["KnownLocations"]) == 9000


def test_writers_beside_each_other_lose_nothing(tmp_path: Path):
    """Two exports and somebody who records locations as Skopeo does, with its timeout, at the same time."""
    path = new_cache(tmp_path / containers.NAME)
    failed: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failed.append(error)

        return run

    def export(first: int) -> None:
        facts = [(digest(n), BlobRecord(locations={f"h:1/{first}": n})) for n in range(3000)]
        containers.write(str(path), facts)

    def skopeo() -> None:
        with closing(sqlite3.connect(path, timeout=5.0, isolation_level=None)) as connection:
            for number in range(100):
                connection.execute("BEGIN EXCLUSIVE")
                connection.execute(location(number, "h:1/skopeo", "2026-11-26 21:43:11+00:00"))
                connection.execute("COMMIT")

    threads = [threading.Thread(target=guarded(work)) for work in (lambda: export(1), lambda: export(2), skopeo)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert len(all_rows(path)["KnownLocations"]) == 6100


# Damage


@pytest.mark.slow
@pytest.mark.parametrize("golden", [*CACHES, BOLT], ids=[path.stem for path in [*CACHES, BOLT]])
def test_no_wrong_digest_is_taken_from_a_damaged_cache(golden: Path, tmp_path: Path):
    """750 times each. Whatever is read without an error is what the cache knew, but for a place or time less."""
    whole = golden.read_bytes()
    used = [start for start in range(0, len(whole), 64) if any(whole[start : start + 64])]

    def read(path: str) -> Facts:
        return containers.read_bolt(bbolt.read(path)) if golden is BOLT else containers.read_sqlite(path)

    before = known(read(str(golden)))
    refused, path = 0, tmp_path / "cache"
    for seed in range(750):
        path.write_bytes(damage(whole, used, random.Random(seed)))
        try:
            found = [fact for fact in read(str(path)) if not isinstance(fact, Odd)]
        except TransferError:
            refused += 1
            continue
        for blob, record in found:
            expected = before.get(blob, BlobRecord())
            assert record.diff_id in (None, expected.diff_id), seed

    assert refused > 100
