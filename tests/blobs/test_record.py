"""An entry of `blob-by-digest`: what can be read, the one form in which it is written, and what two become together."""

from __future__ import annotations

import json
from functools import reduce
from itertools import permutations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from layerstore import CorruptRecordError
from layerstore.blobs import COMPRESSIONS, BlobRecord, decode, encode, merge
from layerstore.keys import BLOBS, digest_key
from layerstore.records import why_unreadable
from tests.support.strategies import sha256

KEY = digest_key(sha256(1))
FULL = (
    f'{{"DiffID":"{sha256(2)}","Compression":"zstd","Variant":"zstd:chunked",'
    f'"Annotations":{{"a":"<1>","b":"ü"}},"TOC":"{sha256(3)}","Locations":['
    '{"Repository":"docker.io/library/busybox"},'
    '{"Repository":"localhost:5000/team/app","SeenAt":"2026-11-26T21:43:11.02529397Z"}],'
    '"Later":{"x":1.50}}'
).encode()

_few = st.integers(0, 2)
_digests = _few.map(sha256)
_times = st.none() | st.sampled_from([-1, 0, 1, 10**18, 10**18 + 1]) | st.integers(-(2**63), 2**63 - 1)


@st.composite
def records(draw: st.DrawFn) -> BlobRecord:
    """Draw records of one blob that agree in some and differ in other things."""
    values = {
        "DiffID": _digests,
        "Compression": st.sampled_from(COMPRESSIONS),
        "Variant": st.sampled_from("vw"),
        "TOC": _digests,
    }
    fields, conflicts = {}, {}
    for name, one in values.items():
        found = tuple(sorted(draw(st.sets(one, max_size=3))))
        if len(found) > 1:
            conflicts[name] = found
        elif found:
            fields[{"DiffID": "diff_id"}.get(name, name.lower())] = found[0]
    return BlobRecord(
        annotations=draw(st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=2), max_size=2)),
        locations=draw(
            st.dictionaries(st.sampled_from(["h.io/a", "h.io/b", "docker.io/library/x"]), _times, max_size=3)
        ),
        conflicts=conflicts,
        extra=draw(
            st.dictionaries(st.sampled_from(["Later", "ü", 'q"']), st.sampled_from([b"1", b"[2,1.50]", b'{"a":null}']))
        ),
        **fields,
    )


def test_a_record_is_read_and_written_again_to_the_byte():
    record = decode(FULL, KEY)

    assert record == BlobRecord(
        diff_id=sha256(2),
        compression="zstd",
        variant="zstd:chunked",
        annotations={"a": "<1>", "b": "ü"},
        toc=sha256(3),
        locations={"docker.io/library/busybox": None, "localhost:5000/team/app": 1_795_729_391_025_293_970},
        extra={"Later": b'{"x":1.50}'},
    )
    assert encode(record) == FULL
    assert record.modified_at_ns == 1_795_729_391_025_293_970
    assert why_unreadable(BLOBS, KEY, FULL) is None


@given(records())
def test_what_is_written_is_read_as_it_was_and_has_one_form(record: BlobRecord):
    value = encode(record)

    assert decode(value, KEY) == record
    assert encode(decode(value, KEY)) == value
    assert encode(decode(json.dumps(json.loads(value), indent=1).encode(), KEY)) == value or b"1.50" in value


@pytest.mark.parametrize(
    ("given_value", "written"),
    [
        (b" { } ", b"{}"),
        (b'{"Locations":[]}', b"{}"),
        (b'{"Annotations":{}}', b"{}"),
        (
            b'{"Locations":[{"SeenAt":"2026-01-02T03:04:05.100Z","Repository":"h.io/b"},{"Repository":"h.io/a"}]}',
            b'{"Locations":[{"Repository":"h.io/a"},{"Repository":"h.io/b","SeenAt":"2026-01-02T03:04:05.1Z"}]}',
        ),
        (
            b'{"Z": [1, 1e400, 123456789012345678901234567890], "A":null}',
            b'{"A":null,"Z":[1,1e400,123456789012345678901234567890]}',
        ),
        (b'{"compression":"gzip"}', b'{"compression":"gzip"}'),
    ],
)
def test_another_layout_is_brought_into_the_one_form(given_value: bytes, written: bytes):
    assert encode(decode(given_value, KEY)) == written


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "it is empty"),
        (b"[]", "object"),
        (b'{"DiffID":null}', "DiffID"),
        (b'{"DiffID":"sha256:12"}', "DiffID is not a digest"),
        (b'{"DiffID":7}', "DiffID"),
        (b'{"TOC":"nonsense"}', "TOC is not a digest"),
        (b'{"Compression":"Gzip"}', "Compression is one of bzip2, gzip, uncompressed, xz, zstd, not 'Gzip'"),
        (b'{"Compression":""}', "Compression is one of"),
        (b'{"Variant":""}', "Variant is empty"),
        (b'{"Annotations":{"a":1}}', "Annotations"),
        (b'{"Compression":"gzip","Compression":"zstd"}', "'Compression' is repeated"),
        (b'{"Annotations":{"a":"1","a":"2"}}', "'a' is repeated"),
        (b'{"Locations":[{"Repository":""}]}', "a location without a repository"),
        (b'{"Locations":[{}]}', "Repository"),
        (b'{"Locations":[{"Repository":"busybox"}]}', "record 'docker.io/library/busybox'"),
        (b'{"Locations":[{"Repository":"h.io/a:1"}]}', "record 'h.io/a'"),
        (b'{"Locations":[{"Repository":"h.io/a"},{"Repository":"h.io/a"}]}', "a repository is there twice"),
        (b'{"Locations":[{"Repository":"h.io/a","Refused":true}]}', "Refused"),
        *(
            (b'{"Locations":[{"Repository":"h.io/a","SeenAt":"%s"}]}' % text, reason)
            for text, reason in (
                (b"", "not a time in UTC"),
                (b"2026-11-26T21:43:11", "not a time in UTC"),
                (b"2026-11-26T21:43:11+01:00", "not a time in UTC"),
                (b"2026-11-26 21:43:11Z", "not a time in UTC"),
                (b"2026-11-26T24:00:00Z", "not a time in UTC"),
                (b"2026-11-26T21:43:11.Z", "not a time in UTC"),
                (b"2026-11-26T21:43:11.0123456789Z", "not a time in UTC"),
                (b"2026-02-30T21:43:11Z", "day"),
                (b"0001-01-01T00:00:00Z", "64 bits"),
                (b"9999-01-01T00:00:00Z", "64 bits"),
            )
        ),
        (b'{"Conflicts":{"Compression":["gzip"]}}', "two values or more, sorted"),
        (b'{"Conflicts":{"Compression":["zstd","gzip"]}}', "two values or more, sorted"),
        (b'{"Conflicts":{"Compression":["gzip","lz4"]}}', "not 'lz4'"),
        (b'{"Compression":"xz","Conflicts":{"Compression":["gzip","zstd"]}}', "beside a conflict of Compression"),
        (b'{"Conflicts":{"Locations":["a","b"]}}', "Locations"),
        (b'{"Later":[}', ""),
        (b'{"Later":NaN}', "malformed"),
        (b'{"Later":1}x', ""),
        (b'{"Later":"\xff"}', "not UTF-8"),
        (b'{"Later":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    ],
)
def test_what_is_no_record_is_an_error_that_says_why(value: bytes, reason: str):
    with pytest.raises(CorruptRecordError) as raised:
        decode(value, KEY)

    assert (raised.value.namespace, raised.value.key) == (BLOBS, KEY)
    assert reason in raised.value.reason
    assert why_unreadable(BLOBS, KEY, value) == raised.value.reason


def test_a_key_that_is_no_digest_is_unreadable():
    assert why_unreadable(BLOBS, "sha256/12", b"{}") == "the key is not the digest of a layer or blob"


@given(
    st.binary(max_size=60)
    | st.tuples(st.integers(0, len(FULL)), st.binary(max_size=3)).map(
        lambda at: FULL[: at[0]] + at[1] + FULL[at[0] + len(at[1]) :]
    )
)
@example(b'{"\\ud800":1}')
@example(b"{" + b'"a":1,' * 3 + b"}")
def test_any_bytes_are_read_or_refused(value: bytes):
    try:
        record = decode(value, KEY)
    except CorruptRecordError:
        return
    assert decode(encode(record), KEY) == record


@given(st.lists(records(), min_size=3, max_size=3))
def test_merging_is_commutative_associative_and_idempotent(found: list[BlobRecord]):
    merged = {encode(reduce(merge, order)) for order in permutations(found)}
    one, two, three = found
    whole = merge(merge(one, two), three)

    assert merged == {encode(whole)}
    assert encode(merge(one, merge(two, three))) == encode(whole)
    assert all(encode(merge(whole, each)) == encode(whole) for each in (*found, whole))
    assert decode(encode(whole), KEY) == whole


@given(records(), records())
def test_a_merge_has_what_either_side_knows(one: BlobRecord, other: BlobRecord):
    whole = merge(one, other)

    for name in {*one.locations, *other.locations}:
        times = [side.locations[name] for side in (one, other) if name in side.locations]
        assert whole.locations[name] == max((seen for seen in times if seen is not None), default=None)
    for name, attribute in (
        ("DiffID", "diff_id"),
        ("Compression", "compression"),
        ("TOC", "toc"),
        ("Variant", "variant"),
    ):
        known = {
            value
            for side in (one, other)
            for value in side.conflicts.get(name, filter(None, [getattr(side, attribute)]))
        }
        assert set(whole.conflicts.get(name, filter(None, [getattr(whole, attribute)]))) == known


def test_two_values_that_cannot_both_be_true_are_a_conflict_that_stays():
    gzip, zstd = BlobRecord(compression="gzip"), BlobRecord(compression="zstd")

    both = merge(gzip, zstd)

    assert both == BlobRecord(conflicts={"Compression": ("gzip", "zstd")})
    assert encode(both) == b'{"Conflicts":{"Compression":["gzip","zstd"]}}'
    assert merge(both, gzip) == both
    assert merge(both, BlobRecord(compression="xz")).conflicts == {"Compression": ("gzip", "xz", "zstd")}
