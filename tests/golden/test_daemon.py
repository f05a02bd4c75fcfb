"""A real daemon's directory (Docker 20.10.24): each list reads, and writes back to the same bytes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from layerstore import (
    AuthConfig,
    DiffID,
    FSMetadataStore,
    SQLMetadataStore,
    V2MetadataService,
    check_hmac,
    compute_hmac_key,
)
from layerstore.keys import key_digest
from layerstore.records import decode_diff_id, decode_list, encode_list, why_unreadable

DISTRIBUTION = Path(__file__).parent / "docker-20.10.24" / "distribution"
LISTS = sorted((DISTRIBUTION / "v2metadata-by-diffid" / "sha256").iterdir())
MAPPINGS = sorted((DISTRIBUTION / "diffid-by-digest" / "sha256").iterdir())


def test_the_directory_is_the_one_that_the_tests_are_about():
    lengths = [len(decode_list(path.read_bytes())) for path in LISTS]

    assert len(LISTS) == 89
    assert lengths.count(50) == 2
    assert max(lengths) == 50
    assert min(lengths) >= 1
    assert MAPPINGS


@pytest.mark.parametrize("path", LISTS, ids=[path.name[:12] for path in LISTS])
def test_a_list_comes_back_byte_for_byte(path: Path):
    value = path.read_bytes()
    entries = decode_list(value)

    assert encode_list(entries) == value
    assert entries
    for entry in entries:
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", entry.digest)
        assert re.fullmatch(r"localhost:5000/[a-z0-9/-]+", entry.source_repository)
        assert re.fullmatch(r"([0-9a-f]{64})?", entry.hmac)


def test_every_hmac_is_that_of_empty_credentials():
    key = compute_hmac_key(AuthConfig())
    entries = [entry for path in LISTS for entry in decode_list(path.read_bytes())]

    assert all(check_hmac(entry, key) for entry in entries if entry.hmac)
    assert any(entry.hmac for entry in entries)
    assert any(not entry.hmac for entry in entries)


def test_every_mapping_is_a_diff_id():
    for path in MAPPINGS:
        diff_id = decode_diff_id(path.read_bytes())

        assert type(diff_id) is DiffID
        assert diff_id.encode() == path.read_bytes()
        assert key_digest(f"sha256/{path.name}") == f"sha256:{path.name}"


def test_the_file_store_reads_it_as_it_is():
    entries = list(FSMetadataStore(DISTRIBUTION).entries())

    assert len(entries) == len(LISTS) + len(MAPPINGS)
    assert [why_unreadable(*entry) for entry in entries] == [None] * len(entries)


def test_the_services_answer_alike_on_files_and_on_sql(sql_file: SQLMetadataStore):
    files = FSMetadataStore(DISTRIBUTION)
    sql_file.set_many(files.entries())
    on_files, on_sql = V2MetadataService(files), V2MetadataService(sql_file)
    diff_ids = [f"sha256:{path.name}" for path in LISTS]
    digests = [f"sha256:{path.name}" for path in MAPPINGS]

    assert list(sql_file.entries()) == list(files.entries())
    assert on_sql.get_metadata_many(diff_ids) == on_files.get_metadata_many(diff_ids)
    assert on_sql.get_diff_ids(digests) == on_files.get_diff_ids(digests)
    assert [on_sql.get_metadata(diff_id) for diff_id in diff_ids] == [on_files.get_metadata(d) for d in diff_ids]
