"""`show`: everything that is known about one thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from tests.support.command import (
    BAD,
    DONE,
    FOUND,
    HMAC,
    REPOSITORY,
    V1_ID,
    Run,
    assert_one_line_error,
    lines,
)
from tests.support.strategies import sha256

LAYER, BLOB, TAGGED, OTHER_LAYER = (sha256(start << 248) for start in (0xA0, 0xB1, 0xB2, 0xD0))


def test_a_layer_is_shown_with_its_associations_digests_and_v1_ids(run: Run, small: Path):
    result = run("show", LAYER)

    assert (result.code, result.err) == (DONE, "")
    out = result.out
    assert f"layer {LAYER}\n  list modified 20" in out
    assert "the newest first (2)" in out
    assert out.index(TAGGED) < out.index(BLOB)
    assert f"{REPOSITORY}" in out
    assert "(unknown repository)" in out
    assert f"HMAC {HMAC[:8]}…" in out
    assert HMAC not in out
    assert f"{V1_ID}  at registry1" in out
    assert f"blob {LAYER}\n  is layer {OTHER_LAYER}" in out, "the same text is also a blob's digest"
    assert small.exists()


def test_a_blob_is_shown_with_its_layer_and_where_it_can_be_had(run: Run, small: Path):
    with SQLMetadataStore(small) as store:
        V2MetadataService(store).add(OTHER_LAYER, V2Metadata(BLOB, "host/other"))

    out = run("show", BLOB).out

    assert lines(out)[0] == f"blob {BLOB}"
    assert lines(out)[1] == f"  is layer {OTHER_LAYER}"
    assert "host/other" in out
    assert f"in the list of {LAYER}" in out


def test_a_v1_image_is_shown_with_its_layers(run: Run, small: Path):
    assert run("show", V1_ID).out == f"V1 image {V1_ID}\n  at registry1  is layer {LAYER}\n"
    assert small.exists()


def test_a_repository_is_shown_with_what_can_be_had_from_it(run: Run, small: Path):
    out = run("show", REPOSITORY).out

    assert lines(out)[:2] == [f"repository {REPOSITORY}", "  has 2 layers in 2 associations (layer, blob):"]
    assert f"    {LAYER}  {BLOB}  no HMAC" in out
    assert small.exists()


@pytest.mark.parametrize(
    ("prefix", "first"),
    [
        (BLOB[7:19], f"blob {BLOB}"),
        (BLOB[:19], f"blob {BLOB}"),
        (OTHER_LAYER[7:40], f"layer {OTHER_LAYER}"),
        (V1_ID[:12], f"V1 image {V1_ID}"),
        (LAYER[7:19], f"layer {LAYER}"),
    ],
    ids=["blob", "with-algorithm", "long", "v1", "layer-and-blob"],
)
def test_the_first_12_digits_are_enough(run: Run, small: Path, prefix: str, first: str):
    result = run("show", prefix)

    assert (result.code, lines(result.out)[0]) == (DONE, first)
    assert small.exists()


@pytest.mark.parametrize(
    "what", [sha256(1), "1" * 12, "sha256:" + "1" * 64, "host/unknown", "sha512:" + "1" * 128, "a b"], ids=repr
)
def test_what_is_unknown_exits_with_1_and_says_where_it_was_looked_for(run: Run, small: Path, what: str):
    result = run("show", what)

    assert result.code == FOUND
    assert_one_line_error(result, repr(what), small)
    assert run("show", "--json", what).json == []


@pytest.mark.parametrize("what", ["b", "b10000", "sha256:b1", "12345678901"])
def test_too_few_digits_are_refused_saying_how_many_are_needed(run: Run, small: Path, what: str):
    result = run("show", what)

    assert result.code == BAD
    assert_one_line_error(result, what, "12 hex digits")
    assert small.exists()


def test_a_repository_of_hex_digits_is_not_too_short(run: Run, small: Path):
    with SQLMetadataStore(small) as store:
        V2MetadataService(store).add(LAYER, V2Metadata(BLOB, "cafe"))

    assert lines(run("show", "cafe").out)[0] == "repository cafe"


def test_several_that_begin_alike_are_refused_and_named(run: Run, database: Path):
    start = "e" * 20
    names = [f"sha256:{start}{digit * 44}" for digit in "01"]
    with SQLMetadataStore(database) as store:
        for name in names:
            V2MetadataService(store).add(LAYER, V2Metadata(name))

    result = run("show", start)

    assert result.code == BAD
    assert_one_line_error(result, *names, "more digits")
    assert run("show", names[0]).code == DONE


def test_json_has_the_kind_and_every_field(run: Run, small: Path):
    found = {one["kind"]: one for one in run("show", "--json", LAYER).json}

    assert found.keys() == {"layer", "blob"}
    layer = found["layer"]
    assert layer["diff_id"] == LAYER
    assert layer["digests"] == [BLOB, TAGGED]
    assert layer["v1_ids"] == [["registry1", V1_ID]]
    assert layer["associations"][0] == {
        "diff_id": LAYER,
        "digest": TAGGED,
        "source_repository": "",
        "hmac": HMAC,
    }
    assert [one["kind"] for one in run("show", "--json", REPOSITORY).json] == ["repository"]
    assert [one["kind"] for one in run("show", "--json", V1_ID).json] == ["v1image"]
    assert small.exists()


def test_a_layer_without_a_list_is_shown_by_its_blobs(run: Run, database: Path):
    with SQLMetadataStore(database) as store:
        store.set("diffid-by-digest", BLOB.replace(":", "/"), LAYER.encode())

    out = run("show", LAYER).out
    assert "  no list\n" in out
    assert "not in its list (1)" in out
    assert f"    {BLOB}\n" in out


HOSTILE = "host/\x1b[2J\x07\n\x9b31m\u202eevil\x7f"


@pytest.mark.parametrize("what", [LAYER, BLOB, HOSTILE], ids=["layer", "blob", "repository"])
def test_control_characters_of_a_name_do_not_reach_the_terminal(run: Run, database: Path, what: str):
    with SQLMetadataStore(database) as store:
        V2MetadataService(store).add(LAYER, V2Metadata(BLOB, HOSTILE, "\x1b]0;x"))

    out = run("show", what).out

    assert "evil" in out
    assert [c for c in out if not c.isprintable() and c != "\n"] == []
    assert "\\x1b[2J" in out
    assert run("show", "--json", what).json[0]["associations"][0]["source_repository"] == HOSTILE
    assert "\x1b" not in run("show", "--json", what).out


def test_control_characters_of_keys_and_paths_do_not_reach_the_terminal(run: Run, database: Path, tmp_path: Path):
    run("set", "n\x1b", "k\x1b[2J\n", "v")
    base = tmp_path / "in\x1b"
    (base / "n").mkdir(parents=True)
    (base / "n" / "link\x1b").symlink_to("x")

    for arguments in (["list"], ["diff", base], ["import", base], ["get", "n", "x\x1b\n"], ["verify", base]):
        result = run(*arguments)
        assert "\x1b" not in result.out + result.err
        assert result.err.count("\n") <= 1
    assert database.exists()


def test_a_list_that_cannot_be_read_is_said_and_found_by_its_beginning(run: Run, database: Path):
    with SQLMetadataStore(database) as store:
        store.set("v2metadata-by-diffid", LAYER.replace(":", "/"), b"nonsense")
    result = run("show", LAYER[7:27])

    assert result.code == DONE
    assert "its list cannot be read: " in result.out
    database.unlink()
