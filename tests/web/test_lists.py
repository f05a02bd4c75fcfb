"""Lists that are sorted and filtered, questions that wait for their fields, and how values look on pages and in CSV."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from layerstore import DiffID, SQLMetadataStore, V2MetadataService
from tests.web.conftest import BLOB, LAYER, ROOT, Show, Shown

CSS = (ROOT / "layerstore" / "web" / "static" / "layerstore.css").read_text()


def names(page: str) -> list[str]:
    return re.findall(r'<a class="mono name" href="[^"]*">([^<]+)</a>', page)


@pytest.mark.parametrize("url", ["/-/repositories?", "/-/repositories?registry=localhost:5000&"])
def test_repositories_are_sorted_and_filtered(sample: Path, show: Show, url: str):
    site = show(sample)

    by_name = names(site.text(f"{url}part=apps/")[site.text(f"{url}part=apps/").index('id="part"') :])
    assert by_name == sorted(by_name)
    assert len(by_name) > 10
    assert all("apps/" in name for name in by_name)
    largest = site.json(f"{url.replace('?', '.json?', 1)}sort=layers")["repositories"]
    counts = [one["layers"] for one in largest]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == 64
    assert "No repositories with this in their names." in site.text(f"{url}part=nothing-of-this")
    assert 'aria-sort="descending"' in site.text(f"{url}sort=layers")


def test_the_next_page_of_a_filtered_list_is_filtered_too(sample: Path, show: Show):
    site = show(sample)
    found = site.json("/-/repositories.json?part=localhost")

    assert found["next"] is not None
    assert f"part=localhost&amp;after={found['next']}" in site.text("/-/repositories?part=localhost")


def paged(site: Shown, url: str, key: str, field: str) -> list[str]:
    """Return a field of every row of a list, page by page."""
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = site.json(f"{url}&after={after}")
        seen += [one[field] for one in page[key]]
        after = page["next"]
    return seen


def test_layers_are_sorted_by_time_both_ways_and_filtered(sample: Path, show: Show):
    site = show(sample)
    newest = paged(site, "/-/layers.json?sort=newest", "layers", "diff_id")

    assert len(newest) == len(set(newest)) == 89
    assert paged(site, "/-/layers.json?sort=oldest", "layers", "diff_id") == newest[::-1]
    assert 'aria-sort="ascending"' in site.text("/-/layers?sort=oldest")
    assert 'aria-sort="descending"' in site.text("/-/layers")
    some = site.json("/-/layers.json?part=team1/")["layers"]
    assert 0 < len(some) < 50
    with SQLMetadataStore(sample, read_only=True) as store:
        v2 = V2MetadataService(store)
        for one in newest:
            named = any("team1/" in each.source_repository for each in v2.get_metadata(DiffID.parse(one)))
            assert named == (one in {each["diff_id"] for each in some}), one
    assert [one["diff_id"] for one in site.json(f"/-/layers.json?part={LAYER[20:40]}")["layers"]] == [LAYER]
    assert [one["diff_id"] for one in site.json(f"/-/layers.json?part={BLOB}")["layers"]] == [LAYER]
    assert "No more layers with this in them." in site.text("/-/layers?part=nothing-of-this")
    assert 'name="registry" value="localhost:5000"' in site.text("/-/layers?registry=localhost:5000")
    assert site.json("/-/layers.json?registry=localhost:5000&part=team1/")["layers"] == some
    assert re.search("part=localhost&amp;sort=oldest&amp;after=", site.text("/-/layers?part=localhost&sort=oldest"))


def test_the_layers_of_a_repository_are_sorted_and_filtered(sample: Path, show: Show):
    site = show(sample)
    url = "/-/repository.json?name=localhost:5000/apps/a01"
    newest = paged(site, url, "held", "diff_id")

    assert len(newest) == 6
    assert paged(site, f"{url}&sort=oldest", "held", "diff_id") == newest[::-1]
    assert paged(site, f"{url}&part={newest[3][7:19]}", "held", "diff_id") == [newest[3]]
    page = site.text("/-/repository?name=localhost:5000/apps/a01&part=no-such")
    assert "No layers with this in them." in page
    assert 'name="name" value="localhost:5000/apps/a01"' in page


def test_a_question_is_not_asked_before_its_field_is_filled(sample: Path, show: Show):
    site = show(sample)
    empty = site.text("/store/ask-digests")

    assert "Fill in the field to ask." in empty
    assert "No rows." not in empty
    assert re.search(r'name="diff_id" value=""[^>]* required', empty)
    filled = site.text(f"/store/ask-digests?diff_id={LAYER}")
    assert "Fill in" not in filled
    assert "1 row" in filled
    assert "Fill in" not in site.text("/store/ask-newest")


@pytest.mark.parametrize(
    ("url", "current"),
    [("/-/layers", "Layers"), ("/-/repositories?part=a", "Repositories"), ("/store/layers", "Tables and SQL")],
)
def test_the_navigation_marks_the_page_that_is_shown(sample: Path, show: Show, url: str, current: str):
    marked = re.findall(r'<a href="[^"]*" aria-current="page">([^<]+)</a>', show(sample).text(url))

    assert marked == [current]


def test_there_is_one_form_of_time(sample: Path, show: Show):
    site = show(sample)
    for url in ("/-/layers", "/store/layers", f"/-/layer/{LAYER}"):
        shown = re.sub(r"<[^>]*>", " ", site.text(url))
        assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown), url
        assert not re.search(r"\d{4}-\d\d-\d\dT", shown), url


def test_a_csv_has_values_and_no_links(sample: Path, show: Show):
    rows = list(csv.DictReader(io.StringIO(show(sample).text("/store/metadata.csv?_size=5"))))

    assert len(rows) == 5
    assert {row["value"][:7] for row in rows} == {"sha256:"}
    assert "http" not in str(rows)


def test_a_page_has_no_two_landmarks_of_one_name(sample: Path, show: Show):
    page = show(sample).text(f"/-/layer/{LAYER}?target=localhost:5000/team2/app")
    labels = re.findall(r'role="region" aria-label="([^"]+)"', page)

    assert len(labels) == len(set(labels)) > 1
    assert not set(labels) & set(re.findall(r"<h2[^>]*>([^<]+)</h2>", page))


def colours(scheme: str) -> dict[str, str]:
    """Return the colours of a scheme: those of the dark one replace what it has of the light one's."""
    light, dark = (
        re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", part) for part in CSS.split("prefers-color-scheme: dark")
    )
    return dict(light) if scheme == "light" else {**dict(light), **dict(dark)}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_bars_stand_out_from_what_is_behind_them(scheme: str):
    """By 3:1 at least, as WCAG 2 asks of what is no text."""
    of = colours(scheme)
    assert ".bar rect, .plot rect { fill: var(--bar); }" in CSS
    for behind in ("page", "card", "soft"):
        darker, lighter = sorted((luminance(of["bar"]), luminance(of[behind])))
        assert (lighter + 0.05) / (darker + 0.05) >= 3, (scheme, behind)
