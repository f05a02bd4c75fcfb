"""The search box: a digest, the beginning of one, a DiffID, a repository, and whatever else somebody types."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.strategies import sha256
from tests.web.conftest import BLOB, LAYER, LOST, NO_LIST, REPOSITORY, STRANGE, TWO_BLOBS, UNLISTED, UNREADABLE, Show
from tests.web.test_pages import words


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        (BLOB, f"/-/layer/{LAYER}"),
        (LAYER, f"/-/layer/{LAYER}"),
        (f"  {LAYER}  ", f"/-/layer/{LAYER}"),
        (BLOB[7:19], f"/-/layer/{LAYER}"),
        (BLOB[7:19].upper(), f"/-/layer/{LAYER}"),
        (LAYER[:19], f"/-/layer/{LAYER}"),
        (REPOSITORY, f"/-/repository?name={REPOSITORY}"),
        ("team1/app", f"/-/repository?name={REPOSITORY}"),
        ("localhost:5000/team1", f"/-/repository?name={REPOSITORY}"),
    ],
)
def test_what_is_one_thing_is_shown_at_once(sample: Path, show: Show, typed: str, place: str):
    site = show(sample)
    answer = site.get(f"/-/search?q={quote(typed)}")

    assert (answer.status_code, answer.headers["location"]) == (302, place)
    assert site.get(place).status_code == 200
    as_json = site.get(f"/-/search.json?q={quote(typed)}").headers["location"]
    assert site.get(as_json).json()


def test_several_are_listed_by_kind(sample: Path, show: Show):
    said = words(show(sample).text("/-/search?q=1"))

    assert "Layers sha256:1" in said
    assert "Blobs sha256:1" in said


@pytest.mark.parametrize(
    ("typed", "diff_id"),
    [(UNLISTED, NO_LIST), (UNREADABLE, UNREADABLE), (LOST, STRANGE), ("c" * 64, TWO_BLOBS), ("cccc", TWO_BLOBS)],
)
def test_what_is_in_no_list_or_in_a_list_alone_is_found(odd: Path, show: Show, typed: str, diff_id: str):
    assert show(odd).get(f"/-/search?q={typed}").headers["location"] == f"/-/layer/{diff_id}"


@pytest.mark.parametrize(
    "typed",
    [
        sha256(987654321),
        "ffffffffffffffffff",
        "no such thing",
        "' OR 1=1 --",
        "%",
        "*",
        "_",
        "<script>",
        "\x00",
        "sha256:",
        "é" * 500,
        "\udcff",
    ],
)
def test_what_is_not_there_says_so_and_what_can_be_typed(sample: Path, show: Show, typed: str):
    html = show(sample).text(f"/-/search?q={quote(typed, errors='surrogateescape')}")

    assert "Nothing found" in words(html)
    assert "What can be typed" in words(html)
    assert "<script>" not in html


def test_nothing_typed_says_what_can_be(sample: Path, show: Show):
    assert "What can be typed" in words(show(sample).text("/-/search"))
