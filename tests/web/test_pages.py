"""What the pages of our own say, as HTML and as JSON: of what is there, what is odd, and what is not known."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from layerstore.blobs import BlobRecord, encode
from layerstore.web.pages import PAGES
from tests.support.strategies import sha256
from tests.web.conftest import (
    BLOB,
    HMAC,
    LAYER,
    LOST,
    NO_LIST,
    REPOSITORY,
    SCRIPT,
    STRANGE,
    TWO_BLOBS,
    UNLISTED,
    UNREADABLE,
    Show,
)

ADDRESSES = {
    r"/$": "/",
    r"/-/overview(?P<format>\.json)$": "/-/overview.json",
    r"/-/layers(?P<format>\.json)?$": "/-/layers",
    r"/-/repositories(?P<format>\.json)?$": "/-/repositories",
    r"/-/repository(?P<format>\.json)?$": f"/-/repository?name={REPOSITORY}",
    r"/-/layer/(?P<diff_id>[^/]+?)(?P<format>\.json)?$": f"/-/layer/{LAYER}",
    r"/-/search(?P<format>\.json)?$": "/-/search?q=1",
}
DATASETTES = ["/store", "/store/metadata", "/store/layers", "/store/ask-newest", "/store?sql=select+1", "/-/versions"]


def words(html: str) -> str:
    """Return what a page says, without its markup."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


class Outline(HTMLParser):
    """What somebody who does not see a page goes by."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_each_page_has_an_address_in_these_tests():
    assert set(ADDRESSES) == set(PAGES)


@pytest.mark.parametrize("url", [url for url in ADDRESSES.values() if not url.endswith(".json")])
def test_each_page_is_there_as_json_too_and_leads_to_it(sample: Path, show: Show, url: str):
    site = show(sample)
    html = site.text(url)

    (alternate,) = [one["href"] for one in Outline(html).all("link") if one.get("type") == "application/json"]
    assert alternate is not None
    assert site.get(alternate).headers["content-type"].startswith("application/json")
    assert isinstance(site.json(alternate), dict)


@pytest.mark.parametrize("url", [*(url for url in ADDRESSES.values() if not url.endswith(".json")), *DATASETTES])
def test_a_page_can_be_read_by_keyboard_and_screen_reader(sample: Path, show: Show, url: str):
    page = Outline(show(sample).text(url))
    ids = {attributes.get("id") for _, attributes in page.tags} - {None}

    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) >= 1
    assert len(page.all("h1")) == 1
    assert len(page.all("main")) == 1
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}
    assert all(header.get("scope") == "col" for header in page.all("th"))
    assert {label["for"] for label in page.all("label") if "for" in label} <= ids
    labelled = {label.get("for") for label in page.all("label")}
    for field in page.all("input") + page.all("textarea"):
        assert field.get("type") == "hidden" or field.get("id") in labelled or field["name"] == "_filter_value"
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= ids, (url, attributes)


@pytest.mark.parametrize("url", [*(url for url in ADDRESSES.values() if not url.endswith(".json")), *DATASETTES])
def test_a_page_loads_nothing_from_elsewhere_and_runs_nothing(sample: Path, show: Show, url: str):
    answer = show(sample).get(url)
    page = Outline(answer.text)

    assert page.all("script") == page.all("style") == []
    assert [attributes for _, attributes in page.tags if "style" in attributes] == []
    assert [name for _, attributes in page.tags for name in attributes if name.startswith("on")] == []
    loaded = [one.get("href") for one in page.all("link")] + [one.get("src") for one in page.all("img")]
    assert [one for one in loaded if one and not one.startswith(("/", "http://localhost:8001/"))] == []
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_first_page_says_what_this_is_and_what_is_in_it(sample: Path, show: Show):
    site = show(sample)
    said = words(site.text("/"))

    assert "Image layers, and the repositories that have them" in said
    for count in ("Layers 89", "Associations 216", "Digests 89", "Repositories 64", "Registries 1", "V1 IDs 0"):
        assert count in said
    assert re.search(r"Counted at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", said)
    assert "localhost:5000 64 89" in said
    assert "localhost:5000/apps/a01 6" in said
    assert "Which layers changed last?" in said
    overview = site.json("/-/overview.json")["counts"]["report"]
    assert overview["stats"]["layers"] == sum(overview["timeline"]["counts"]) == 89


def test_the_bars_over_time_are_inside_their_plot(sample: Path, show: Show):
    (plot,) = re.findall(r'<svg viewBox="0 0 \d+ \d+" preserve.*?</svg>', show(sample).text("/"), re.DOTALL)
    width, height = map(int, re.findall(r"\d+", plot)[2:4])
    bars = [[float(one[name] or 0) for name in ("x", "y", "width", "height")] for one in Outline(plot).all("rect")]

    assert bars
    for x, y, wide, high in bars:
        assert 0 <= x <= x + wide <= width
        assert 0 < high <= y + high == height


def test_an_empty_store_says_so(tmp_path: Path, show: Show):
    SQLMetadataStore(tmp_path / "empty.db").close()
    site = show(tmp_path / "empty.db")

    assert "Layers 0" in words(site.text("/"))
    assert "No layers yet" in words(site.text("/-/layers"))
    assert "No repositories" in words(site.text("/-/repositories"))


def test_layers_are_listed_the_newest_first_and_paged_by_key(tmp_path: Path, show: Show):
    with SQLMetadataStore(tmp_path / "many.db") as store:
        v2 = V2MetadataService(store)
        for number in range(120):
            v2.add(sha256(number), V2Metadata(sha256(1000 + number), f"host-{number % 2}:5000/app{number}"))
    site = show(tmp_path / "many.db")
    seen: list[str] = []
    url = "/-/layers.json"
    while url:
        page = site.json(url)
        seen += [one["diff_id"] for one in page["layers"]]
        url = page["next"] and f"/-/layers.json?after={page['next']}"

    assert seen == [sha256(number) for number in reversed(range(120))]
    of_one = site.json("/-/layers.json?registry=host-1:5000")
    assert [one["diff_id"] for one in of_one["layers"]] == [sha256(n) for n in range(119, 20, -2)]
    rest = site.json(f"/-/layers.json?registry=host-1:5000&after={of_one['next']}")
    assert [one["diff_id"] for one in rest["layers"]] == [sha256(n) for n in range(19, 0, -2)]
    assert rest["next"] is None
    names: list[str] = []
    url = "/-/repositories.json"
    while url:
        page = site.json(url)
        names += [one["source_repository"] for one in page["repositories"]]
        url = page["next"] and f"/-/repositories.json?after={page['next']}"
    assert names == sorted(f"host-{number % 2}:5000/app{number}" for number in range(120))


def test_the_layers_of_a_repository_are_paged_by_key_also_where_they_are_too_many_to_order(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
):
    name = "host:5000/app"
    with SQLMetadataStore(tmp_path / "many.db") as store, store.transaction():
        v2 = V2MetadataService(store)
        for number in range(120):
            v2.add(sha256(number), V2Metadata(sha256(1000 + number), name))
            v2.add(sha256(number), V2Metadata(sha256(2000 + number), name))
    site = show(tmp_path / "many.db")

    def all_of_them() -> tuple[bool, list[str]]:
        seen: list[str] = []
        url, newest_first = f"/-/repository.json?name={name}", False
        while url:
            page = site.json(url)
            newest_first = page["order"] == "newest"
            seen += [one["diff_id"] for one in page["held"]]
            assert (page["layers"], page["associations"]) == (120, 240)
            url = page["next"] and f"/-/repository.json?name={name}&after={page['next']}"
        return newest_first, seen

    twice = [sha256(number) for number in range(120) for _ in range(2)]
    assert all_of_them() == (True, twice[::-1])
    monkeypatch.setattr("layerstore.sql.reading.search.ORDERED_BY_TIME", 100)
    assert all_of_them() == (False, sorted(twice))


def test_facets_narrow_layers_down_to_a_registry_and_lead_to_repositories(odd: Path, show: Show):
    html = show(odd).text("/-/layers")

    assert 'href="/-/layers?registry=registry.example.com"' in html
    assert 'href="/-/repository?name=registry.example.com/a/one"' in html


def test_a_registry_that_is_rare_is_looked_for_a_bounded_way_and_the_next_page_goes_on(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("layerstore.sql.reading.layers.LOOKED_THROUGH", 10)
    with SQLMetadataStore(tmp_path / "rare.db") as store:
        v2 = V2MetadataService(store)
        for number in range(25):
            v2.add(sha256(number), V2Metadata(sha256(1000 + number), f"{'often' if number else 'rare'}:5000/app"))
    site = show(tmp_path / "rare.db")
    pages = []
    url = "/-/layers.json?registry=rare:5000"
    while url:
        page = site.json(url)
        pages.append([one["diff_id"] for one in page["layers"]])
        url = page["next"] and f"/-/layers.json?registry=rare:5000&after={page['next']}"

    assert pages == [[], [], [sha256(0)]]
    assert "None of the 10 layers" in words(site.text("/-/layers?registry=rare:5000"))


def test_a_registry_shows_its_repositories(odd: Path, show: Show):
    said = words(show(odd).text("/-/repositories?registry=registry.example.com"))

    assert "registry.example.com/a/one 2" in said
    assert "registry.example.com/b/two 1" in said
    assert "script" not in said


def test_a_layer_shows_its_digests_and_where_each_can_be_had(sample: Path, show: Show):
    said = words(show(sample).text(f"/-/layer/{LAYER}"))

    assert LAYER in said
    assert BLOB in said
    assert "in its list 2 associations" in said
    assert said.index("localhost:5000/other/thing") < said.index(REPOSITORY)  # the newest first
    assert "19457388…" in said


def test_a_layer_in_several_compressions_shows_each_and_what_its_list_lost(odd: Path, show: Show, tmp_path: Path):
    own = Path(shutil.copy(odd, tmp_path))
    with SQLMetadataStore(own) as store:
        store.set("diffid-by-digest", sha256(0xB5 << 240).replace(":", "/"), TWO_BLOBS.encode())
    said = words(show(own).text(f"/-/layer/{TWO_BLOBS}"))

    assert "The same layer in 4 compressions" in said
    assert f"{sha256(0xB5 << 240)} in its list no more" in said
    assert f"{sha256(0xB1 << 240)} in its list 1 association" in said
    assert "unknown repository" in said
    assert "V1 images" in said
    assert "c" * 64 in said


def test_a_layer_without_a_list_says_so(odd: Path, show: Show):
    said = words(show(odd).text(f"/-/layer/{NO_LIST}"))

    assert "It has no list" in said
    assert f"{UNLISTED} in its list no more" in said


def test_a_list_that_cannot_be_read_says_so_and_the_page_is_there(odd: Path, show: Show):
    site = show(odd)
    html = site.text(f"/-/layer/{UNREADABLE}?target=localhost:5000/a")

    assert "Its list cannot be read" in words(html)
    assert "Docker asks nothing about a layer whose list cannot be read" in words(html)
    (link,) = re.findall(r'href="(/store/metadata\?[^"]+)"', html)
    assert "not JSON" in site.text(unescape(link))
    assert "no entry that can be read" in words(site.text("/-/layers"))


def test_a_digest_that_maps_to_nothing_is_named_by_the_layer_that_lists_it(odd: Path, show: Show):
    said = words(show(odd).text(f"/-/layer/{STRANGE}"))

    assert f"Its list also holds what maps to another layer, or to none: {LOST[:19]}…" in said


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (f"/-/layer/{sha256(12345)}", "layer"),
        ("/-/layer/nonsense", "layer"),
        (f"/-/layer/{quote('<b>x')}", "layer"),
        ("/-/repository?name=nowhere/app", "repository"),
        ("/-/repository", "repository"),
        ("/-/repositories?registry=nowhere", "registry"),
    ],
)
def test_what_is_not_known_is_404_and_the_page_says_so(sample: Path, show: Show, url: str, kind: str):
    site = show(sample)

    assert f"Nothing is known of this {kind} in this store" in words(site.text(url, 404))
    path, _, query = url.partition("?")
    assert site.json(f"{path}.json?{query}", 404)["error"] == f"nothing is known of this {kind}"
    assert "<b>x" not in site.text(url, 404)


@pytest.mark.parametrize("after", ["x", "1", "x,y", f"{1 << 64},y", "1,\x00"])
def test_where_a_page_begins_is_checked(sample: Path, show: Show, after: str):
    status = 200 if after == "1,\x00" else 400

    assert ("a page begins after TIME,NAME" in words(show(sample).text(f"/-/layers?after={quote(after)}", status))) == (
        status == 400
    )


@pytest.mark.parametrize("size", ["", "0", "20000000"])
def test_candidates_are_those_of_the_command(sample: Path, show: Show, tmp_path: Path, size: str):
    target = "localhost:5000/team2/app"
    sized = ["--size", size] if size else []
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{}")
    said = subprocess.run(
        [sys.executable, "-m", "layerstore", "--db", sample, "candidates", LAYER, target, "--json", *sized],
        env={**os.environ, "DOCKER_CONFIG": str(tmp_path / "docker")},
        capture_output=True,
        check=True,
    )
    command = json.loads(said.stdout)
    site = show(sample)
    found = site.json(f"/-/layer/{LAYER}.json?target={target}&size={size}")["candidates"]

    assert found == command
    shown = words(site.text(f"/-/layer/{LAYER}?target={target}&size={size}"))
    for step in command["steps"]:
        assert f"{step['action']} {step['digest'][:19]}… {step['source_repository']} {step['reason']}" in shown


def test_a_target_that_is_no_repository_is_said_to_be_none(sample: Path, show: Show):
    site = show(sample)
    html = site.text(f"/-/layer/{LAYER}?target={quote('UPPER/<i>')}")

    assert "UPPER" in site.json(f"/-/layer/{LAYER}.json?target=UPPER")["target_error"]
    assert 'aria-invalid="true"' in html
    assert "<i>" not in html


@pytest.mark.parametrize("size", ["-1", "1e6", "10 MB", "9" * 19, "<i>"])
def test_a_size_that_is_no_number_of_bytes_is_said_to_be_none(sample: Path, show: Show, size: str):
    site = show(sample)
    html = site.text(f"/-/layer/{LAYER}?target=localhost:5000/a&size={quote(size)}")
    found = site.json(f"/-/layer/{LAYER}.json?target=localhost:5000/a&size={quote(size)}")

    assert found["size_error"] == f"a size is a number of bytes, not {size!r}"
    assert (found["candidates"], found["target_error"]) == (None, None)
    assert 'aria-invalid="true"' in html
    assert "<i>" not in html


def test_a_name_with_markup_in_it_is_text_everywhere(odd: Path, show: Show):
    site = show(odd)
    for url in (
        "/",
        "/-/layers",
        "/-/repositories",
        f"/-/repository?name={quote(SCRIPT)}",
        f"/-/repositories?registry={quote('<script>alert(1)<')}",
        f"/-/layer/{STRANGE}",
        f"/-/layer/{STRANGE}?target={quote('localhost:5000/x')}",
        f"/-/search?q={quote('<script>')}",
        "/store/v2_metadata",
        "/store/repositories",
        "/store/ask-repositories",
        "/store?sql=" + quote("select source_repository, hmac, digest as [<script>] from v2_metadata"),
    ):
        html = site.get(url).text
        assert "<script" not in html.lower(), url
        assert "<b>app" not in html, url


def test_hmacs_are_shortened_on_every_page(odd: Path, show: Show):
    site = show(odd)
    for url in (
        f"/-/layer/{TWO_BLOBS}",
        f"/-/layer/{TWO_BLOBS}?target=registry.example.com/x",
        "/-/repository?name=registry.example.com/a/one",
        "/store/v2_metadata",
        "/store/metadata",
        "/store?sql=" + quote("select hmac from v2_metadata"),
        "/store?sql=" + quote("select value from metadata"),
    ):
        html = site.text(url)
        assert HMAC not in html, url
        assert "target" in url or f"{HMAC[:8]}…" in html, url


def test_bytes_are_shown_as_text_or_hex(odd: Path, show: Show):
    html = show(odd).text("/store/metadata?namespace=other")

    assert "x&#39;ff00fe&#39;" in html
    assert "Binary" not in html


def test_long_text_is_folded(sample: Path, show: Show):
    html = show(sample).text("/store/metadata?namespace=v2metadata-by-diffid")

    assert '<details class="fold"><summary>[{' in html


def test_json_of_a_layer_has_all_of_it(odd: Path, show: Show):
    found = show(odd).json(f"/-/layer/{TWO_BLOBS}.json")

    assert [one["source_repository"] for one in found["places"]] == [
        "",
        "registry.example.com/b/two",
        "registry.example.com/a/one",
    ]
    assert found["v1_ids"] == [["old.example.com", "c" * 64]]
    assert json.dumps(found).count(HMAC) == 1


def test_there_is_no_such_page(sample: Path, show: Show):
    assert "There is no such page" in words(show(sample).text("/nowhere/at/all/x", 404))


def test_what_the_store_cannot_answer_is_a_page_that_says_why(own_sample: Path, show: Show):
    site = show(own_sample)
    site.datasette.layerstore.store.close()

    assert "this store was closed" in words(site.text("/-/layers", 503))
    assert "this store was closed" in site.json("/-/repositories.json", 503)["error"]


def test_what_other_engines_know_is_on_the_pages_of_a_layer_and_of_a_repository(tmp_path: Path, show: Show):
    blob = BlobRecord(
        diff_id=sha256(9), compression="zstd", locations={"h.io/a": 1_700_000_000 * 10**9, "h.io/b": None}
    )
    with SQLMetadataStore(tmp_path / "others.db") as store:
        store.set("blob-by-digest", sha256(1).replace(":", "/"), encode(blob))
        store.set("blob-by-digest", sha256(2).replace(":", "/"), encode(BlobRecord(locations={"h.io/a": None})))
    site = show(tmp_path / "others.db")

    layer = site.text(f"/-/layer/{sha256(9)}")
    assert "What other engines know" in layer
    assert all(text in layer for text in ("zstd", "h.io/a", "h.io/b", sha256(1)))
    repository = site.text("/-/repository?name=h.io/a")
    assert all(text in repository for text in (sha256(1), sha256(2), "not known"))
    assert [one["digest"] for one in site.json("/-/repository.json?name=h.io/a")["located"]] == [sha256(1), sha256(2)]
