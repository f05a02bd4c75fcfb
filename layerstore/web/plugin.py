"""What Datasette asks a plugin: our pages, how values look, and that connections only read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlencode

from datasette import hookimpl
from datasette.database import QueryInterrupted
from datasette.utils.asgi import Response
from datasette.views.base import DatasetteError

from layerstore import __version__, words
from layerstore.errors import LayerstoreError
from layerstore.sql.sqlite.confined import confine
from layerstore.web import cells, pages
from layerstore.web.describing import DATABASE, QUERY, needed_by, questions
from layerstore.web.guard import App, Guard


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
        next_of=pages.next_of,
        query=lambda **values: urlencode({name: value for name, value in values.items() if value}, safe="/:,"),
        layer_url=cells.layer_url,
        repository_url=cells.repository_url,
        registry_url=cells.registry_url,
        search_url=cells.search_url,
        utc=words.utc,
        size=words.size,
        short=words.short,
        short_hmac=words.short_hmac,
        counted_noun=words.counted,
    )


@hookimpl
def render_cell(value: Any, column: str, database: str) -> Any:
    """Show a value of the store's."""
    return cells.cell(value, column) if database == DATABASE else None


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
        body = await datasette.render_template("error.html", data, request=request)
        return Response.html(body, status=status)

    outcome.force_result([answer])


def _fault(exception: Exception, path: str) -> tuple[int, str] | None:
    """Return the status and the reason of what is not Datasette's fault."""
    if isinstance(exception, LayerstoreError):
        return 503, str(exception)
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
        found = await pages.answer(view, datasette.layerstore, arguments)
        as_json = bool(request.url_vars.get("format"))
        if isinstance(found, pages.Elsewhere):
            place, _, query = found.url.partition("?")
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
