"""The pages in a real browser without a window: Debian's Chromium, which is told where to go as a person would."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from layerstore.web.plugin import ANSWERED
from tests.web.conftest import BLOB, LAYER, REPOSITORY, serving

CHROMIUM = os.environ.get("LAYERSTORE_CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
# A few rows are as good as many, and looked at in a fifth of the time.
PAGES = [
    "/",
    "/-/layers",
    "/-/repositories",
    "/-/repositories?registry=localhost:5000",
    f"/-/repository?name={REPOSITORY}",
    f"/-/layer/{LAYER}?target=localhost:5000/team2/app",
    "/-/search?q=1",
    "/-/search?q=nothing-of-this-name",
    "/store",
    "/store/metadata?_size=9",
    "/store/v2_metadata?_size=9",
    "/store/layers?_size=9",
    "/store/ask-newest?limit=9",
    "/store?sql=select+*+from+metadata+limit+9",
    "/-/versions",
]

# As WCAG 2 has it, of each text against what is behind it; for text that is shown.
CONTRAST = """() => {
  const channel = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4 };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return parse(getComputedStyle(document.documentElement).colorScheme.includes("dark") ? "0 0 0" : "255 255 255");
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, .unseen, .skip")) continue;
    const [one, two] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.outerHTML}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def address(sample: Path) -> Iterator[str]:
    with serving(sample) as (_, found):
        yield found.rstrip("/")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield launched
        launched.close()


class Watched:
    """A page, and all that its console says and that it asks for."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.said: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))


def context(browser: Browser, *, scheme: str = "light", width: int = 1200) -> BrowserContext:
    chosen: dict[str, object] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    return browser.new_context(**chosen)  # type: ignore[arg-type]


def test_from_the_first_page_to_a_repository_to_a_layer_and_a_digest_in_the_search_box(browser: Browser, address: str):
    with context(browser) as made:
        watched = Watched(made)
        page = watched.page
        page.goto(address + "/")
        expect(page.get_by_role("heading", level=1)).to_have_text("Image layers, and the repositories that have them")
        expect(page.locator(".tiles")).to_contain_text("Layers89")
        expect(page.get_by_role("img", name="Layers over time")).to_be_visible()

        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Repositories").click()
        page.get_by_role("link", name=REPOSITORY, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(REPOSITORY)
        expect(page.get_by_role("row")).to_have_count(3)

        page.get_by_role("link", name=LAYER[:19]).click()
        expect(page).to_have_url(f"{address}/-/layer/{LAYER}")
        expect(page.get_by_role("heading", level=1)).to_have_text(LAYER)
        expect(page.locator("main")).to_contain_text(BLOB)
        expect(page.locator("main")).to_contain_text("localhost:5000/other/thing")

        page.get_by_label("Push to the repository").fill("localhost:5000/team2/app")
        page.get_by_role("button", name="Show candidates").click()
        expect(page.get_by_role("region", name="Candidates")).to_contain_text("mount")

        page.goto(address + "/")
        search = page.get_by_role("searchbox")
        search.fill(BLOB)
        search.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(LAYER)
        search.fill("no such thing")
        search.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Nothing found")

        assert watched.said == []
        assert watched.hosts == {urlsplit(address).netloc}


def test_axe_would_find_something(browser: Browser):
    """The control."""
    page = browser.new_page()
    page.set_content("<html><body><img src='x.png'></body></html>")
    found = {rule["id"] for rule in Axe().run(page).response["violations"]}
    page.close()

    assert {"image-alt", "html-has-lang"} <= found


@pytest.mark.parametrize(
    ("width", "scheme", "rules"),
    [(1280, "light", None), (390, "dark", ["color-contrast", "link-in-text-block", "target-size"])],
)
def test_axe_finds_nothing(
    browser: Browser, address: str, width: int, scheme: Literal["light", "dark"], rules: list[str] | None
):
    """axe-core, with its rules for WCAG 2.2 and for good practice, on every page; its own, not Datasette's.

    In the dark, and on a phone, with those of them that look at colours and sizes.
    """
    options = None if rules is None else {"runOnly": {"type": "rule", "values": rules}}
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    found = []
    for path in PAGES:
        page.goto(address + path)
        found += [
            f"{path}: {rule['id']}: {node['html'][:200]}"
            for rule in Axe().run(page, options=options).response["violations"]
            for node in rule["nodes"]
        ]
    context.close()

    assert found == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_every_page_can_be_read_by_light_and_dark_on_a_phone_and_a_desk(
    browser: Browser, address: str, scheme: str, width: int
):
    backgrounds = set()
    with context(browser, scheme=scheme, width=width) as made:
        watched = Watched(made)
        for url in PAGES:
            watched.page.goto(address + url)
            assert watched.page.evaluate("document.documentElement.scrollWidth") <= width, url
            assert watched.page.evaluate(CONTRAST) == [], url
            backgrounds.add(watched.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert watched.said == []
        assert watched.hosts == {urlsplit(address).netloc}
    assert backgrounds == {"rgb(246, 247, 249)" if scheme == "light" else "rgb(18, 22, 28)"}


def test_by_the_keyboard_alone(browser: Browser, address: str):
    with context(browser) as made:
        page = made.new_page()
        page.goto(address + "/")
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()

        page.reload()
        for _ in range(6):
            page.keyboard.press("Tab")
        search = page.get_by_role("searchbox", name="Digest, beginning of one, DiffID or repository")
        expect(search).to_be_focused()
        assert search.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        page.keyboard.type(LAYER[7:19])
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(LAYER)


def test_a_field_for_a_digest_shows_it_in_full(browser: Browser, address: str):
    with context(browser) as made:
        page = made.new_page()
        for url, name in ((f"/store/ask-digest?digest={BLOB}", "digest"), (f"/-/layers?part={BLOB}", "part")):
            page.goto(address + url)
            field = page.locator(f"input[name={name}]")
            assert field.input_value() == BLOB
            assert field.evaluate("one => one.scrollWidth <= one.clientWidth"), url


def test_no_page_needs_a_script(browser: Browser, address: str):
    with browser.new_context(java_script_enabled=False) as made:
        page = made.new_page()
        page.goto(address + "/")
        page.get_by_text("The numbers as a table").click()
        expect(page.get_by_role("columnheader", name="From – to (UTC)")).to_be_visible()


def test_a_question_is_asked_and_sql_is_typed(browser: Browser, address: str):
    with context(browser) as made:
        watched = Watched(made)
        page = watched.page
        page.goto(address + "/")
        page.get_by_role("link", name="Which layers changed last?").click()
        page.get_by_label("limit").fill("3")
        page.get_by_role("button", name="Run").click()
        expect(page.get_by_text("3 rows", exact=True)).to_be_visible()
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Tables and SQL").click()
        page.get_by_label("SQL, which can only read").fill("select count(*) as layers from layers")
        page.get_by_role("button", name="Run").click()
        expect(page.get_by_role("cell", name="89")).to_be_visible()
        page.goto(address + next(iter(ANSWERED.values())))
        expect(page.get_by_role("heading", name="Largest repositories")).to_be_in_viewport()
        assert watched.said == []
