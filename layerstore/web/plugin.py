"""What Datasette asks a plugin, and is told of a store: its pages, what its tables mean, queries, how values look.

What it says of tables is docs/sql.md's; the queries are `layerstore.sql.questions`'.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote, urlencode

from datasette import hookimpl
from datasette.database import QueryInterrupted
from datasette.utils.asgi import Response
from datasette.views.base import DatasetteError
from markupsafe import Markup, escape

from layerstore import __version__, words
from layerstore.digest import is_digest
from layerstore.errors import InvalidInputError, LayerstoreError
from layerstore.sql.questions import QUESTIONS, Question
from layerstore.sql.sqlite.confined import confine
from layerstore.web import pages
from layerstore.web.guard import App, Guard

DATABASE: Final = "store"
"""The database's name in addresses, whatever its file is called: `/store/layers.json`."""
QUERY: Final = "ask-"
"""Begins the names of queries, as some of them are also tables': `/store/ask-newest`."""

ANSWERED: Final = {"largest": "/#repositories"}
"""Questions that take too long for a page, and where what was counted in the background answers them."""

SETTINGS: Final = {
    "allow_download": False,
    "default_cache_ttl": 0,  # what writers do meanwhile is to be seen at the next load
    "default_page_size": 50,
    "suggest_facets": False,  # each would count a whole table to find out
    "facet_time_limit_ms": 40,
    "sql_time_limit_ms": 2000,  # for SQL of one's own; nothing of ours takes as long
    "num_sql_threads": 4,
    "truncate_cells_html": 0,  # long values are folded by `cell`
}

_WRAPPED_FROM = 40
_FOLDED_FROM = 200
_LONGEST = 20_000  # characters of one value in a page, more than a list at the cap has
_is_time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").fullmatch
_hmac_in_json = re.compile(r'("hmac"\s*:\s*")([^"\\…]{9,})(?=["…])', re.IGNORECASE)

_COLUMNS: Final = {
    "namespace": "the directory that the file is in",
    "key": "the rest of its path",
    "value": "its bytes",
    "diff_id": "the layer; NULL if it is not known, or if two engines disagree",
    "digest": "the blob",
    "source_repository": "a repository that has it; empty if that is not known",
    "hmac": "ties the entry to credentials; empty if it was recorded without any",
    "position": "rises from the layer's oldest association to its newest, with gaps",
    "compression": "gzip, zstd, bzip2, xz or uncompressed; NULL if that is not known",
    "toc_digest": "digest of its table of contents; NULL if that is not known",
    "registry": "its host",
    "v1_id": "64 hex digits",
    "layers": "how many layers it has",
    "associations": "in how many entries of lists",
    "repositories": "how many repositories",
    "v1_ids": "how many V1 images",
    "modified_at": "when its list or mapping was last written",
    "modified_at_ns": "when it was last written, in nanoseconds since 1970",
    "seen_at_ns": "when it was seen there last, in nanoseconds since 1970; NULL if that is not known",
    "reason": "why it was set aside",
    "quarantined_at_ns": "when it was set aside, in nanoseconds since 1970",
}
"""What a column of this name means, in each table that has it."""


def _table(description: str, *sortable: str, facet: str | None = None) -> dict[str, Any]:
    """Describe a table, whose sortable columns are those that an index has in order: all else sorts a million rows."""
    facets = {} if facet is None else {"facets": [facet]}
    return {"description": description, "sortable_columns": list(sortable), "columns": _COLUMNS, **facets}


_TABLES: Final[dict[str, dict[str, Any]]] = {
    "metadata": _table("The truth: one row per file of Docker's. All others but quarantine are derived from it."),
    "v2_metadata": _table(
        "One row per association: a layer, one of its blobs, and a repository that has the blob.",
        *("digest", "source_repository"),
        facet="source_repository",
    ),
    "blobs": _table(
        "One row per blob that another engine than Docker knows, such as containerd or Podman.", "digest", "diff_id"
    ),
    "locations": _table(
        "One row per repository in which another engine than Docker has seen a blob.",
        *("digest", "source_repository"),
        facet="source_repository",
    ),
    "places": _table("One row per place that a blob is available from, by Docker's lists and by other engines."),
    "quarantine": _table("Invalid values that a write or an import set aside.", "id"),
    "diff_id_by_digest": _table("Which layer each blob is.", "digest", "diff_id"),
    "v1_ids": _table("Which layer each V1 image is, at which registry.", "registry", "v1_id"),
    "layers": _table("One row per layer that has a list.", "modified_at_ns"),
    "repositories": _table("One row per repository, by name.", facet="registry"),
    "registries": _table("One row per registry, of repositories and of V1 images."),
    "shared_layers": _table("One row per layer that two or more repositories have."),
    "unlisted_digests": _table(
        "One row per blob that is in no list, because it was removed or evicted (a list keeps 50)."
    ),
}
_NOT_OURS: Final = {"alembic_version": {"hidden": True}, "sqlite_sequence": {"hidden": True}}


def metadata() -> dict[str, Any]:
    """Return what Datasette calls metadata."""
    return {
        "title": "layerstore",
        "databases": {
            DATABASE: {
                "title": "Tables and SQL",
                "tables": {**_TABLES, **_NOT_OURS},
                "queries": {f"{QUERY}{one.name}": _query(one) for one in QUESTIONS if one.name not in ANSWERED},
            }
        },
    }


def questions() -> list[tuple[str, str]]:
    """Return each question with the address of its answer."""
    return [(one.question, ANSWERED.get(one.name, f"/{DATABASE}/{QUERY}{one.name}")) for one in QUESTIONS]


def needed_by(name: str | None) -> tuple[str, ...]:
    """Return the parameters that a query with a name must have a value for."""
    return next((one.needed for one in QUESTIONS if f"{QUERY}{one.name}" == name), ())


def _query(question: Question) -> dict[str, Any]:
    """Return a query that takes a parameter left empty for its default."""
    sql = question.sql
    for name, value in question.defaults.items():
        literal = f"'{value}'" if isinstance(value, str) else str(value)
        sql = re.sub(rf":{name}\b", f"coalesce(nullif(:{name}, ''), {literal})", sql)
    return {
        "title": question.question,
        "description": "".join(
            f":{name} is {value!r} if it is left empty. " for name, value in question.defaults.items()
        ).strip(),
        "sql": sql,
        "params": [*question.needed, *question.defaults],
    }


@hookimpl
def register_routes() -> list[tuple[str, Callable[..., Awaitable[Any]]]]:
    """Give our pages; they come before Datasette's own."""
    return [(path, _handler(view, path)) for path, view in pages.PAGES.items()]


@hookimpl
def asgi_wrapper(datasette: Any) -> Callable[[App], App]:
    """Put the guard before all."""
    return lambda app: Guard(app, datasette.layerstore_host)


@hookimpl
def prepare_connection(conn: Any, database: str) -> None:
    """Let connections to the store read alone; Datasette's own database in memory is its own."""
    if database == DATABASE:
        confine(conn)


@hookimpl
def prepare_jinja2_environment(env: Any, datasette: Any) -> None:
    """Give templates the words and addresses; as globals, since Datasette's page for errors gets nothing else."""
    env.globals.update(
        site=datasette.layerstore,
        store_name=DATABASE,
        query_prefix=QUERY,
        questions=questions(),
        needed_by=needed_by,
        version=__version__,
        query=lambda **values: urlencode({name: value for name, value in values.items() if value}, safe="/:,"),
        layer_url=pages.layer_url,
        repository_url=pages.repository_url,
        registry_url=pages.registry_url,
        search_url=pages.search_url,
        utc=words.utc,
        size=words.size,
        short=words.short,
        short_hmac=words.short_hmac,
        counted_noun=words.counted,
    )


@hookimpl
def render_cell(value: Any, column: str, database: str) -> Any:
    """Show a value of the store's."""
    return cell(value, column) if database == DATABASE else None


@hookimpl(hookwrapper=True)
def handle_exception(datasette: Any, request: Any, exception: Exception) -> Iterator[None]:
    """Answer what Datasette takes for its own fault, and is the address's or the store's."""
    outcome: Any = yield
    if (found := _fault(exception, request.path)) is None:
        return
    status, reason = found

    async def answer() -> Any:
        data = {"ok": False, "error": reason, "status": status, "title": None}
        if request.path.endswith(".json"):
            return Response.json(data, status=status)
        if request.path.endswith(".csv"):
            return Response.text(f"{reason}\n", status=status)
        body = await datasette.render_template("error.html", data, request=request)
        return Response.html(body, status=status)

    outcome.force_result([answer])


def _fault(exception: Exception, path: str) -> tuple[int, str] | None:
    """Return the status and the reason of what is not Datasette's fault."""
    if isinstance(exception, LayerstoreError):
        return 400 if isinstance(exception, InvalidInputError) else 503, str(exception)
    if isinstance(exception, QueryInterrupted):
        return 400, "this takes too long for a page: ask for less, or use `layerstore query`"
    if isinstance(exception, DatasetteError) and exception.status == 500:
        return 400, exception.message
    # Datasette reads parameters (`_through`, `_next`, `_timelimit`, `_ttl`) without a look at what they are.
    if isinstance(exception, ValueError | TypeError | LookupError) and path.startswith(f"/{DATABASE}"):
        return 400, f"the address has a parameter that cannot be read: {exception}"
    return None


def _handler(view: pages.View, path: str) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, datasette: Any) -> Any:
        arguments = {name: request.args.get(name) for name in request.args}
        arguments |= {name: unquote(text) for name, text in request.url_vars.items() if name != "format" and text}
        found = await view(datasette.layerstore, arguments)
        as_json = bool(request.url_vars.get("format"))
        if isinstance(found, str):
            place, _, query = found.partition("?")
            suffix = ".json" if as_json else ""
            return Response.redirect(f"{place}{suffix}{'?' if query else ''}{query}")
        headers = {"cache-control": "no-cache"}
        if as_json:
            return Response.json(found.data, status=found.status, headers=headers)
        if found.refresh_s is not None:
            headers["refresh"] = str(found.refresh_s)
        context = {**found.data, **found.shown, "json_url": _json_url(path, request)}
        body = await datasette.render_template(found.template, context, request=request, view_name="layerstore")
        return Response.html(body, status=found.status, headers=headers)

    return handle


def _json_url(path: str, request: Any) -> str:
    here = "/-/overview" if path == "/$" else request.path
    return f"{here}.json?{request.query_string}" if request.query_string else f"{here}.json"


def cell(value: Any, column: str) -> Markup | None:
    """Return how a value is shown, or `None` to leave it to Datasette."""
    if isinstance(value, bytes):
        return _text(words.readable(value), f"{len(value):,} bytes")
    if not isinstance(value, str) or not value:
        return None
    if column.endswith("_at") and _is_time(value):
        return Markup('<time class="time" datetime="{}">{}</time>').format(value, f"{value[:10]} {value[11:19]} UTC")
    if column == "hmac":
        return Markup('<span class="mono">{}</span>').format(words.short_hmac(value))
    url = _url(value, column)
    if url is None:
        return _text(value, f"{len(value):,} characters")
    return Markup('<a class="mono" href="{}" title="{}">{}</a>').format(
        url, value, words.short(value) if is_digest(value) else value
    )


def _url(value: str, column: str) -> str | None:
    """Return the page about a value, or `None` if it has none."""
    if column == "source_repository":
        return pages.repository_url(value)
    if column == "registry":
        return pages.registry_url(value)
    if is_digest(value):
        return pages.layer_url(value) if column == "diff_id" else pages.search_url(value)
    return None


def _text(text: str, length: str) -> Markup:
    """Show text: what is long is folded, and of what is longer still the beginning is there, with its length."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({length})"
    text = _hmac_in_json.sub(lambda match: match[1] + words.short_hmac(match[2]), text)
    if len(text) <= _WRAPPED_FROM:
        return escape(text)
    if len(text) <= _FOLDED_FROM:
        return Markup('<span class="long">{}</span>').format(text)
    return Markup('<details class="fold"><summary>{}…</summary><pre>{}</pre></details>').format(text[:80], text)
