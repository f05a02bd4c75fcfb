"""Reading is all that can be done: every route, every method, every statement, and nobody from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from datasette.plugins import DEFAULT_PLUGINS, pm

from layerstore.web import guard, plugin
from tests.support.counting import Counted
from tests.web.conftest import LAYER, REPOSITORY, Show, Shown, fingerprint


@pytest.fixture(autouse=True)
def each_is_counted(counted: Counted) -> None:
    counted("headers")


SAMPLES = {
    "format": ".json",
    "database": "store",
    "table": "metadata",
    "pks": "diffid-by-digest,x",
    "path": "app.css",
    "rest": "",
    "diff_id": LAYER,
}


def addresses(site: Shown) -> Iterator[tuple[str, str]]:
    """Yield each route of the application, with an address that leads there."""
    for pattern, _ in site.datasette._routes():
        path = pattern.pattern.rstrip("$")
        path = re.sub(r"\(\\\.\(\?P<format>[^)]+\)\)\?", ".json", path)
        path = re.sub(r"\(\?P<format>\\\.json\)\??", ".json", path)
        path = re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda match: SAMPLES[match[1]], path)
        path = path.replace("\\.", ".").replace("\\", "")
        assert pattern.match(path), (pattern.pattern, path)
        yield pattern.pattern, path


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MKCOL"])
def test_every_route_refuses_what_is_not_reading(sample: Path, show: Show, method: str):
    before = fingerprint(sample)
    site = show(sample)
    routes = list(addresses(site))

    assert len(routes) > 25
    for pattern, path in routes:
        answer = site.request(method, path, content=b'{"sql": "delete from metadata"}')
        assert answer.status_code == 405, (pattern, path)
        assert answer.headers["allow"] == "GET, HEAD"
        assert "read only" in answer.text
    assert fingerprint(sample) == before


def test_every_route_can_be_asked_and_changes_nothing(sample: Path, show: Show):
    before = fingerprint(sample)
    site = show(sample)
    statuses = {}
    for _, path in addresses(site):
        for method in ("GET", "HEAD"):
            answer = site.request(method, path)
            statuses[path] = answer.status_code
            assert answer.status_code < 500, (path, answer.text)
            assert answer.headers["x-content-type-options"] == "nosniff"

    assert {path for path, status in statuses.items() if status == 403} == {*guard.TOOLS, "/store.db"}
    assert fingerprint(sample) == before


@pytest.mark.parametrize("path", sorted(guard.TOOLS))
def test_tools_that_sign_in_or_try_out_are_off(sample: Path, show: Show, path: str):
    site = show(sample)

    assert "off here" in site.text(path, 403)
    assert site.get(f"{path}?token=x&hash=1").status_code == 403
    assert site.get(f"{path}/").status_code in (302, 403)
    # Spelled in another way, Datasette knows no such page.
    assert site.get(path.replace("-/", "-/%61")).status_code in (302, 404)


STATEMENTS = [
    "INSERT INTO metadata VALUES ('a', 'b', x'', 0)",
    "UPDATE metadata SET value = x''",
    "DELETE FROM metadata",
    "REPLACE INTO metadata VALUES ('a', 'b', x'', 0)",
    "CREATE TABLE t (x)",
    "CREATE TEMP TABLE t (x)",
    "DROP TABLE metadata",
    "ALTER TABLE metadata ADD COLUMN x",
    "ATTACH DATABASE '/tmp/other.db' AS other",
    "DETACH DATABASE main",
    "VACUUM",
    "VACUUM INTO '/tmp/copy.db'",
    "REINDEX",
    "ANALYZE",
    "BEGIN IMMEDIATE",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA user_version = 7",
    "PRAGMA writable_schema = ON",
    "WITH x AS (SELECT 1) INSERT INTO metadata SELECT 'a', 'b', x'', 0",
    "WITH x AS (SELECT 1) DELETE FROM metadata",
    "SELECT load_extension('x')",
    "SELECT writefile('/tmp/x', 'y')",
    "SELECT fts3_tokenizer('x', x'00')",
    "SELECT * FROM pragma_journal_mode('DELETE')",
    "SELECT * FROM pragma_user_version(7)",
    "SELECT 1; DELETE FROM metadata",
    "EXPLAIN DELETE FROM metadata",
]


@pytest.mark.parametrize("form", ["", ".json", ".csv"])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_sql_that_would_do_more_than_read_is_refused(sample: Path, show: Show, statement: str, form: str):
    before = fingerprint(sample)
    answer = show(sample).get(f"/store{form}?{urlencode({'sql': statement})}")

    assert answer.status_code == 400
    assert fingerprint(sample) == before


def test_sql_that_reads_is_answered_by_the_same_connections(sample: Path, show: Show):
    """The control of the test above: the guard of connections lets Datasette and its users read."""
    site = show(sample)

    for statement in ("SELECT 1 AS one", "WITH x(one) AS (SELECT 1) SELECT one FROM x"):
        assert site.json(f"/store.json?{urlencode({'sql': statement, '_shape': 'array'})}") == [{"one": 1}]
    assert site.json("/store.json?" + urlencode({"sql": "SELECT * FROM json_each('[1,2]')"}))["ok"]


@pytest.mark.parametrize("path", ["/\\evil.example/", "/\\/evil.example/", "/x\\/", "/%5cevil.example/"])
def test_no_address_leads_to_another_host(sample: Path, show: Show, path: str):
    """A browser takes a backslash for a slash, so that `Location: /\\evil.example` would lead there."""
    answer = show(sample).request("GET", path)

    assert answer.status_code in (302, 400, 404)
    assert re.match(r"/[^/\\]", answer.headers.get("location", "/x"))


def test_what_other_plugins_there_are_is_not_asked(sample: Path, show: Show):
    show(sample)

    assert pm.list_plugin_distinfo() == []
    names = {name for name, registered in pm.list_name_plugin() if registered is not None}
    assert names == {*DEFAULT_PLUGINS, plugin.__name__}


def test_neither_the_file_nor_datasettes_own_database_is_given_away(sample: Path, show: Show):
    site = show(sample)

    assert site.get("/store.db").status_code == 403
    assert site.get("/_internal").status_code == 403
    assert site.get("/_internal/databases.json").status_code == 403
    assert site.get("/_memory").status_code == 404


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8001", "127.0.0.1", "127.0.0.1:9", "[::1]", "[::1]:8001", "LOCALHOST:1"]
)
def test_this_machine_is_answered_by_each_of_its_names(sample: Path, show: Show, host: str):
    assert show(sample).get("/-/layers", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8001",
            "",
            "10.0.0.1",
            "0.0.0.0",
            "localhost.",
        ),
        *("[::1", "[::1]evil", "[::1]:80:80", "[127.0.0.1]", "localhost:", "localhost:x", "localhost:80@evil.example"),
        *("localhost:8001, evil.example", "localhost/", "[localhost]", "::1", "127.0.0.1:123456", "localhost."),
    ],
)
def test_a_name_that_somebody_else_may_own_is_refused_with_the_reason(sample: Path, show: Show, host: str):
    """DNS rebinding: a page elsewhere whose own name leads here, so that the browser lets it read."""
    site = show(sample)
    for url in ("/", "/store.json?sql=select+1", "/-/static/app.css", "/nowhere"):
        answer = site.get(url, headers={"host": host})
        assert answer.status_code == 403
        assert "answers as localhost only" in answer.text


def test_on_another_address_every_name_is_answered(sample: Path, show: Show):
    assert show(sample, host="0.0.0.0").get("/-/layers", headers={"host": "builder.example"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("builder.example", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, loopback: bool):
    assert guard.is_loopback(host) is loopback


def test_no_other_site_may_read_or_frame_an_answer(sample: Path, show: Show):
    answer = show(sample).get(f"/-/repository?name={quote(REPOSITORY)}", headers={"origin": "http://evil.example"})

    assert "access-control-allow-origin" not in answer.headers
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_nothing_is_kept_by_the_browser_that_would_hide_what_writers_do(sample: Path, show: Show):
    site = show(sample)
    for url in ("/", "/-/layers", "/-/layers.json", "/store/layers", "/store/layers.json", "/store/ask-newest"):
        assert site.get(url).headers["cache-control"] in ("no-cache", "private, no-store"), url


CROSS = {"sec-fetch-site": "cross-site"}
SAME = {"sec-fetch-site": "same-site"}  # another port of this machine
GOING = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    "headers",
    [
        {**CROSS, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        {**CROSS, "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
        {**CROSS, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        {**SAME, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
        CROSS,
        {"sec-fetch-site": "nonsense"},
    ],
    ids=str,
)
def test_what_another_site_asks_is_refused(sample: Path, show: Show, headers: dict[str, str]):
    site = show(sample)
    for url in ("/", "/store.json?sql=select+1", "/-/layers.json", "/-/static/app.css", "/nowhere"):
        answer = site.get(url, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.text


@pytest.mark.parametrize(
    "headers",
    [{}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none", **GOING}, {**CROSS, **GOING}, {**SAME, **GOING}],
    ids=str,
)
def test_ones_own_pages_addresses_that_are_typed_and_links_are_answered(
    sample: Path, show: Show, headers: dict[str, str]
):
    assert show(sample).get("/-/layers", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "parameters",
    [
        *("_sort=nothing", "_sort=key", "_sort=digest&_sort_desc=digest", "_sort_desc=%00", "_timelimit=x"),
        *("_timelimit=1e9", "_timelimit=-1", "_ttl=x", "_ttl=%C3%A9", "_through=x", "_through=[]", "_through={}"),
        *('_through={"table":1}', '_through={"table":"metadata","column":"key","value":"x"}', "_next=%27"),
        *("_size=x", "_size=-1", "_size=1e6", "_where=wrong", "_where=(delete+from+metadata)"),
    ],
)
@pytest.mark.parametrize("form", ["", ".json", ".csv"])
def test_a_parameter_that_cannot_be_read_is_the_askers_fault(
    sample: Path, show: Show, capsys: pytest.CaptureFixture[str], parameters: str, form: str
):
    """400, or what is asked for where Datasette takes no notice of the parameter; never 500, and no traceback."""
    site = show(sample)
    found = [site.get(f"/store/{table}{form}?{parameters}").status_code for table in ("metadata", "v2_metadata")]

    assert set(found) <= {200, 400}
    if not parameters.startswith(("_ttl", "_next", "_sort=digest", "_timelimit=-")):
        assert 400 in found
    assert "Traceback" not in capsys.readouterr().err


LONG = "instr(zeroblob(8000000), cast(zeroblob(4000000) as blob) || x'01')"
ENDLESS = "with recursive x(n) as (select 1 union all select n + 1 from x) select {} from x"


@pytest.mark.parametrize(
    ("sql", "form"),
    [
        ("select zeroblob(200000000)", ""),
        (f"select json_array({', '.join(['hex(zeroblob(4000000))'] * 60)})", ".csv"),
        ("select hex(zeroblob(100000)) from metadata", ".json"),
        (ENDLESS.format("count(*)"), ""),
        (ENDLESS.format("hex(zeroblob(100000))"), ".csv"),
        (f"select {LONG}", ""),
        (f"select {LONG}", ".json"),
    ],
)
def test_sql_that_takes_too_much_is_refused_and_the_next_one_is_answered(
    sample: Path, show: Show, monkeypatch: pytest.MonkeyPatch, sql: str, form: str
):
    monkeypatch.setattr("layerstore.sql.sqlite.sandbox.GRACE_S", 0.5)
    site = show(sample)
    asked = {"sql": sql, **({"_timelimit": 200} if LONG in sql else {})}

    assert site.get(f"/store{form}?{urlencode(asked)}").status_code == 400
    assert site.json("/store.json?sql=select+1+as+one&_shape=array") == [{"one": 1}]


def test_a_condition_that_takes_too_long_is_stopped_too(sample: Path, show: Show):
    assert show(sample).get(f"/store/metadata?{urlencode({'_where': LONG})}&_timelimit=200").status_code == 400


def test_rows_of_sql_are_limited_and_the_answer_says_so(sample: Path, show: Show):
    answer = show(sample).json(f"/store.json?{urlencode({'sql': ENDLESS.format('n')})}")

    assert (len(answer["rows"]), answer["truncated"]) == (1000, True)
