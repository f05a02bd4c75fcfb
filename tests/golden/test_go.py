"""Byte for byte as Go: every document and every credential that Go was seen to read or write."""

from __future__ import annotations

import pytest

from layerstore import AuthConfig, V2Metadata, check_hmac, compute_hmac, compute_hmac_key
from layerstore.records import _decode_as_go, decode_list, encode_list
from tests.golden.go_observed import DECODED, ENCODED, Row

EMPTY_KEY = b"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
SEEN = V2Metadata("sha256:203af9ae221c8c35b6a6ec93468aa1da4af5b9ff62cb754f6179b16d0e0efda2", "localhost:5000/team2/app")
HMAC = "4ac2507d7efcdf4f033a3f0f24b6721b17b715afda2933f92eac320e23b3db74"


@pytest.mark.parametrize(
    ("document", "entries"),
    [row[1:] for row in DECODED],
    ids=[row[0].encode("unicode_escape").decode() for row in DECODED],
)
def test_a_list_is_read_as_go_reads_it(document: bytes, entries: list[Row] | None):
    if entries is None:
        for decode in (decode_list, _decode_as_go):
            with pytest.raises(ValueError, match=r"\S"):
                decode(document)
    else:
        expected = [V2Metadata(*entry) for entry in entries]
        assert decode_list(document) == expected
        assert _decode_as_go(document) == expected


@pytest.mark.parametrize(("text", "written"), ENCODED, ids=[ascii(text) for text, _ in ENCODED])
def test_a_list_is_written_as_go_writes_it(text: str, written: bytes):
    document = b'[{"Digest":"d","SourceRepository":' + written + b',"HMAC":""}]'

    assert encode_list([V2Metadata("d", text, "")]) == document
    assert decode_list(document) == [V2Metadata("d", text, "")]
    assert encode_list([V2Metadata(text, "", text)] * 2) == (
        b'[{"Digest":%b,"SourceRepository":"","HMAC":%b},{"Digest":%b,"SourceRepository":"","HMAC":%b}]'
        % ((written,) * 4)
    )


def test_an_empty_list_is_written_as_one():
    assert encode_list([]) == b"[]"


@pytest.mark.parametrize(
    ("auth_config", "key"),
    [
        (None, None),
        (AuthConfig(), EMPTY_KEY),
        (AuthConfig("user", "secret"), b"sha256:1277341c1d0bef3aaa0092ea1a3ce91b77b7c74f6a86934e99427c8ece3cb100"),
        (AuthConfig("u", "a&b<c>d"), b"sha256:65c23815e5b741657d744deb3ee7b15d22d3016006fd317b55a3504d0f5969ac"),
        (AuthConfig(auth="dTpw"), b"sha256:68a5d3035672b44b99ee03cae15728fef6149b85aaf42b5d39e24491da5a057b"),
        (AuthConfig(identity_token="it"), b"sha256:56d407981e7f74ff2ba0f2b0125b7d46ab7b839f5fec8e8a250c464f94aaaac5"),
        (AuthConfig(registry_token="rt"), b"sha256:ed1005481e5529951343ca9f9ea825e04787b9043ec82ec4b3c563c7012d5818"),
        (
            AuthConfig("u", "p", "a", "i", "r"),
            b"sha256:f6e10508a3a6ae142085039197822b1f2a97b39c7b9920e0fc5a5a911c2cdb79",
        ),
        (
            AuthConfig("é", '\u2028"\\\n\b\x7f'),
            b"sha256:05a2ed2db19927e1545fca0747c949b00504d1975a5f18f2bad9228e6521b176",
        ),
    ],
    ids=["none", "empty", "password", "escaped", "auth", "identity token", "registry token", "all", "odd"],
)
def test_the_key_of_credentials_is_dockers(auth_config: AuthConfig | None, key: bytes | None):
    assert compute_hmac_key(auth_config) == key


def test_the_hmac_of_the_daemons_own_directory():
    """FACTS: what the daemon wrote for an empty AuthConfig."""
    assert compute_hmac(EMPTY_KEY, SEEN) == HMAC
    assert compute_hmac(b"k", V2Metadata("sha256:" + "a" * 64, "z", "not part of it")) == (
        "d35196e5cc9e6c21998a7665a725ebb967d15d4110d0d63f83642c8b5e611632"
    )
    assert compute_hmac(None, SEEN) == compute_hmac(b"", SEEN) == ""


@pytest.mark.parametrize(
    ("hmac", "matches"),
    [
        (HMAC, True),
        (HMAC.upper(), True),
        (HMAC[:-1], False),
        (HMAC + " ", False),
        (" " + HMAC, False),
        (HMAC[:2] + " " + HMAC[2:], False),
        (HMAC + "\n", False),
        (HMAC[:62], False),
        (HMAC + "00", False),
        ("0" * 64, False),
        ("xyz", False),
        ("\u0661" * 64, False),
        ("\u0661\u0662", False),
    ],
)
def test_an_hmac_holds_as_in_docker(hmac: str, matches: bool):
    """The hex is read strictly: `bytes.fromhex` alone would take spaces."""
    assert check_hmac(V2Metadata(SEEN.digest, SEEN.source_repository, hmac), EMPTY_KEY) is matches


@pytest.mark.parametrize("no_key", [None, b""])
def test_no_key_and_no_hmac_hold_and_one_alone_never(no_key: bytes | None):
    with_hmac = V2Metadata(SEEN.digest, SEEN.source_repository, HMAC)

    assert check_hmac(SEEN, no_key)
    assert not check_hmac(with_hmac, no_key)
    assert not check_hmac(SEEN, EMPTY_KEY)


def test_credentials_are_not_shown():
    shown = repr(AuthConfig("alice", "secret1", "secret2", "secret3", "secret4"))

    assert "AuthConfig" in shown
    assert "secret" not in shown
    assert "alice" not in shown
