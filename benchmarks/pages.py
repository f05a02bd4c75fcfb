"""What each page of `layerstore serve` costs at a million layers.

    python -m benchmarks.pages [LAYERS] [FILE]

The server is a process of its own; each page is asked for over HTTP a few times, with other names each time: the median
and the slowest. Also while it counts and verifies, in which time the machine has other work too. FILE is kept, and used
if it is there.
"""

from __future__ import annotations

import http.client
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from benchmarks import large
from benchmarks.million import loaded, values
from layerstore.sql.questions import QUESTIONS
from layerstore.sql.sqlite.views import VIEWS
from layerstore.sql.tables import schema as tables
from layerstore.web.plugin import ANSWERED, QUERY

ROUNDS = 9
LIMIT_MS = 300


@contextmanager
def server(path: Path, *options: str) -> Iterator[str]:
    """Run the server; give the host and port that it says."""
    with subprocess.Popen(
        [sys.executable, "-m", "layerstore", "serve", str(path), "--port", "0", *options],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield urlsplit(process.stdout.readline().split()[0]).netloc
        finally:
            process.terminate()


def pages(layers: int, chance: random.Random) -> dict[str, str]:
    """Return the address of each page, with names that are there."""
    there = values(layers, chance)
    layer, registry = there["diff_id"], there["registry"]
    common = large.repository(0)
    small = {"source_repository": there["source_repository"]}
    found = {
        "first page": "/",
        "layers": "/-/layers",
        "layers of a registry": f"/-/layers?{urlencode({'registry': registry})}",
        "layers of a registry that there is not": "/-/layers?registry=nowhere",
        "repositories": "/-/repositories",
        "a registry": f"/-/repositories?{urlencode({'registry': registry})}",
        "a repository": f"/-/repository?{urlencode({'name': there['source_repository']})}",
        "the largest repository": f"/-/repository?{urlencode({'name': common})}",
        "a layer": f"/-/layer/{layer}",
        "a layer, with candidates": f"/-/layer/{layer}?{urlencode({'target': common})}",
        "search: a digest": f"/-/search?{urlencode({'q': there['digest']})}",
        "search: one digit": f"/-/search?q={str(layer)[7]}",
        "search: four digits": f"/-/search?q={str(layer)[7:11]}",
        "search: how a repository begins": "/-/search?q=team-12",
        "search: nothing": "/-/search?q=zzzz",
        "tables and SQL": "/store",
    }
    for name in (*tables.tables, *VIEWS):
        found[f"table {name}"] = f"/store/{name}"
        found[f"table {name}, as JSON"] = f"/store/{name}.json"
        found[f"table {name}, as CSV"] = f"/store/{name}.csv"
    found["table v2_metadata, of a repository"] = f"/store/v2_metadata?{urlencode(small)}"
    for name, column in (
        ("v2_metadata", "digest"),
        ("v2_metadata", "source_repository"),
        ("diff_id_by_digest", "digest"),
        ("diff_id_by_digest", "diff_id"),
        ("v1_ids", "registry"),
        ("v1_ids", "v1_id"),
    ):
        found[f"table {name}, by {column}"] = f"/store/{name}?_sort={column}"
        found[f"table {name}, by {column} descending"] = f"/store/{name}?_sort_desc={column}"
    found["table layers, the newest"] = "/store/layers?_sort_desc=modified_at_ns"
    of_registry = urlencode({"source_repository__startswith": registry})
    found["table repositories, of a registry"] = f"/store/repositories?{of_registry}"
    for one in (each for each in QUESTIONS if each.name not in ANSWERED):
        given = {name: there.get(name, "") for name in one.needed}
        found[f"query {one.name}"] = f"/store/{QUERY}{one.name}?{urlencode(given)}"
    return found


def fetch(netloc: str, url: str) -> tuple[float, int]:
    """Ask for a page, and where that leads; return milliseconds and the status."""
    connection = http.client.HTTPConnection(netloc, timeout=60)
    start = time.perf_counter()
    while True:
        connection.request("GET", url)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.FOUND:
            break
        url = answer.headers["location"]
    took_ms = (time.perf_counter() - start) * 1000
    connection.close()
    return took_ms, answer.status


def table(netloc: str, layers: int, rounds: int) -> None:
    """Print a line for each page."""
    chance = random.Random(1)
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, url in pages(layers, chance).items():
            took_ms, status = fetch(netloc, url)
            assert status == http.client.OK, (name, url, status)
            times.setdefault(name, []).append(took_ms)
    print("| page | median ms | slowest ms |\n|---|---|---|")
    for name, each in times.items():
        note = "  <- over" if statistics.median(each) > LIMIT_MS else ""
        print(f"| {name} | {statistics.median(each):.0f} | {max(each):.0f} |{note}")
    slowest = max(max(each) for each in times.values())
    print(f"\n{len(times)} pages, {rounds} times each; the slowest answer took {slowest:.0f} ms")


def main() -> None:
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="layerstore-pages-", dir=os.environ.get("TMPDIR")) as folder:
        path = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(folder) / "large.db"
        if not path.exists():
            loaded(layers, path)
        with server(path, "--no-verify") as netloc:
            fetch(netloc, "/")
            while "refresh" in _headers(netloc):
                time.sleep(0.5)
            table(netloc, layers, ROUNDS)
        with server(path) as netloc:
            print("\nWhile it counts and verifies:\n")
            table(netloc, layers, 2)


def _headers(netloc: str) -> dict[str, str]:
    connection = http.client.HTTPConnection(netloc, timeout=60)
    connection.request("HEAD", "/")
    found = {name.lower(): value for name, value in connection.getresponse().getheaders()}
    connection.close()
    return found


if __name__ == "__main__":
    main()
