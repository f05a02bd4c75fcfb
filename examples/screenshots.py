"""Take the pictures of `layerstore serve` in docs/browser.md: a made-up store of 20,000 layers, in a real browser.

    python -m examples.screenshots [FOLDER]        # after: pip install -e '.[test]', apt-get install chromium

FOLDER is `examples/pages` unless told otherwise.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlencode

from playwright.sync_api import Browser, sync_playwright

from benchmarks import large
from layerstore import SQLMetadataStore
from layerstore.sql.reading import layers as reading_layers

LAYERS = 20_000
WIDTH = 1040
PHONE = 390
FLAGS = ["--no-sandbox", "--disable-lcd-text"]  # text in shades of grey: half the bytes


class Shot(NamedTuple):
    """A picture: its name, the page, how much of it is seen, by which light, and how wide the window is."""

    name: str
    url: str
    height: int
    scheme: Literal["light", "dark"]
    width: int = WIDTH


def shots(path: Path) -> list[Shot]:
    """Choose pages with something to see: a layer of several digests and repositories, a repository of that layer."""
    with SQLMetadataStore(path, read_only=True) as store:
        pages = (reading_layers.layer(store, large.digest(f"layer {number}")) for number in range(LAYERS))
        layer = next(page for page in pages if page and len(page.digests) > 1 and len(page.associations) == 5)
    repository = next(place.source_repository for place in layer.associations if place.source_repository)
    target = f"{repository.partition('/')[0]}/team-new/service"
    return [
        Shot("home", "/", 1000, "light"),
        Shot("repository", f"/-/repository?{urlencode({'name': repository})}", 660, "light"),
        Shot("layer", f"/-/layer/{layer.diff_id}?{urlencode({'target': target})}", 790, "dark"),
        Shot("phone", f"/-/layer/{layer.diff_id}", 800, "light", PHONE),
    ]


def take(browser: Browser, address: str, shot: Shot, folder: Path) -> None:
    """Save one picture."""
    page = browser.new_page(viewport={"width": shot.width, "height": shot.height}, color_scheme=shot.scheme)
    page.goto(address + shot.url)
    while shot.url == "/" and page.get_by_text("Checked").count() == 0:  # counted, and `verify` has ended
        page.wait_for_timeout(500)
        page.reload()
    page.screenshot(path=folder / f"{shot.name}.png")
    page.close()


def main() -> None:
    """Make a store, show it, and look at it."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pages"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "layers.db"
        with SQLMetadataStore(path) as store:
            store._backend.load(large.incoming(LAYERS), lambda _source, _there, incoming, _aside: incoming)
        with (
            subprocess.Popen(  # noqa: S603  # this program, on a file that was just made
                [sys.executable, "-m", "layerstore", "serve", str(path), "--port", "0"],
                stdout=subprocess.PIPE,
                text=True,
            ) as server,
            sync_playwright() as playwright,
        ):
            assert server.stdout is not None
            address = server.stdout.readline().split()[0].rstrip("/")
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-lcd-text"]
            )
            try:
                for shot in shots(path):
                    take(browser, address, shot, folder)
            finally:
                browser.close()
                server.terminate()


if __name__ == "__main__":
    main()
