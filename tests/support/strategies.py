"""Hypothesis strategies that the tests share: digests, repositories, associations, keys, and what is nearly so."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from layerstore import V2Metadata

HEX = "0123456789abcdef"


def hexadecimal(length: int) -> st.SearchStrategy[str]:
    return st.text(HEX, min_size=length, max_size=length)


def sha256(number: int) -> str:
    """Return a digest that is easy to tell from others, and sorts by its number."""
    return f"sha256:{number:064x}"


ALGORITHMS = st.from_regex(r"[a-z0-9]{1,4}([+._-][a-z0-9]{1,3}){0,2}", fullmatch=True).filter(
    lambda name: name not in ("sha256", "sha384", "sha512")
)
DIGESTS = st.one_of(
    hexadecimal(64).map("sha256:{}".format),
    hexadecimal(96).map("sha384:{}".format),
    hexadecimal(128).map("sha512:{}".format),
    st.tuples(ALGORITHMS, st.text(string.ascii_letters + string.digits + "=_-", min_size=1, max_size=20)).map(":".join),
)
_ODD = st.sampled_from(["", ":", "/", ",", "\n", " ", "A", "g", "é", "\x7f", "sha256", "_", ".", "+", "..", "\ufeff"])


@st.composite
def _bent(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Draw a text and put something odd into it, in place of up to two characters."""
    text = draw(texts)
    start = draw(st.integers(0, len(text)))
    return text[:start] + draw(_ODD) + text[start + draw(st.integers(0, 2)) :]


NEAR_DIGESTS = st.one_of(DIGESTS, _bent(DIGESTS), st.text(max_size=8))

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
REPOSITORIES = st.one_of(
    st.sampled_from(["", "docker.io/library/busybox", "localhost:5000/team/app", "a&b<c>/\u2028é\U0001f600"]), TEXTS
)
METADATA = st.builds(V2Metadata, DIGESTS, REPOSITORIES, st.one_of(st.just(""), hexadecimal(64), TEXTS))

SEGMENTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda segment: segment not in (".", "..") and not segment.startswith(".tmp-")
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join)

V1_KEYS = st.tuples(st.sampled_from(["registry1", "localhost:5000", "", "a,b", "é/x"]), hexadecimal(64)).map(",".join)
NEAR_V1_KEYS = st.one_of(V1_KEYS, _bent(V1_KEYS))

NEAR_DIFF_IDS = st.one_of(
    NEAR_DIGESTS.map(str.encode),
    st.binary(max_size=12),
    st.tuples(DIGESTS.map(str.encode), st.binary(min_size=1, max_size=2)).map(b"".join),
)
