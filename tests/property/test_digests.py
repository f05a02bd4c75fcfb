"""Digests: the grammar of the OCI image specification, and nothing beside it."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import DiffID, Digest, InvalidDigestError
from layerstore.digest import is_digest
from layerstore.keys import digest_key, key_digest
from tests.support.strategies import DIGESTS, NEAR_DIGESTS

LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}


def by_the_specification(text: str) -> bool:
    """Tell it in steps, as descriptor.md has it."""
    algorithm, colon, encoded = text.partition(":")
    if not colon or not re.fullmatch("[a-z0-9]+(?:[+._-][a-z0-9]+)*", algorithm):
        return False
    if algorithm in LENGTHS:
        return len(encoded) == LENGTHS[algorithm] and set(encoded) <= set("0123456789abcdef")
    return re.fullmatch("[a-zA-Z0-9=_-]+", encoded) is not None


@given(st.one_of(NEAR_DIGESTS, st.text(max_size=10)))
def test_the_pattern_is_the_specification(text: str):
    assert is_digest(text) is by_the_specification(text)
    if by_the_specification(text):
        assert Digest.parse(text) == text
    else:
        with pytest.raises(InvalidDigestError) as caught:
            Digest.parse(text)
        assert repr(text) in str(caught.value)


@given(DIGESTS)
def test_a_digest_is_its_text_in_two_parts(text: str):
    for kind in (Digest, DiffID):
        digest = kind.parse(text)

        assert type(digest) is kind
        assert digest == text
        assert hash(digest) == hash(text)
        assert f"{digest.algorithm}:{digest.encoded}" == text
        assert pickle.loads(pickle.dumps(digest)) == copy.copy(digest) == digest
        assert type(pickle.loads(pickle.dumps(digest))) is kind


@given(DIGESTS)
def test_a_digests_key_stands_for_it(digest: str):
    assert key_digest(digest_key(digest)) == digest


@given(NEAR_DIGESTS)
def test_a_key_stands_for_a_digest_or_for_none(text: str):
    found = key_digest(text)

    assert found is None or (is_digest(found) and digest_key(found) == text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("abc", "no colon"),
        ("sha256:abc", "sha256 needs 64 hex digits, here are 3 characters"),
        ("sha512:" + "0" * 127, "sha512 needs 128"),
        ("sha384:" + "0" * 97, "sha384 needs 96"),
        ("sha256:" + "A" * 64, "lower-case"),
        ("sha256:" + "0" * 64 + "\n", "here are 65 characters"),
        ("SHA256:" + "0" * 64, "OCI grammar"),
        ("a b:c", "OCI grammar"),
        ("a:", "OCI grammar"),
        (None, "text is needed, not NoneType"),
        (b"a:b", "text is needed, not bytes"),
    ],
    ids=repr,
)
def test_the_error_says_what_is_wrong(text: str, reason: str):
    with pytest.raises(InvalidDigestError, match=re.escape(reason)):
        Digest.parse(text)
    with pytest.raises(InvalidDigestError, match="DiffID"):
        DiffID.parse(text)


def test_the_constructor_trusts_and_the_parts_do_not_fail():
    """Docker's `Hex()` panics on text without a colon."""
    odd = Digest("no colon")

    assert (odd.algorithm, odd.encoded) == ("", "")
