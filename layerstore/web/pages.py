"""The pages of our own: what each asks the store, and which template shows it. Each is there as JSON too."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from layerstore.errors import InvalidInputError, LayerstoreError
from layerstore.hmac import AuthConfig, compute_hmac_key
from layerstore.push import layers as candidates
from layerstore.repository import split_reference
from layerstore.sql.reading import layers as reading_layers
from layerstore.sql.reading.layers import Key, newest_layers
from layerstore.sql.reading.layers import layer as layer_of
from layerstore.sql.reading.search import Match, Repositories, search
from layerstore.sql.reading.search import repositories as repositories_of
from layerstore.sql.reading.search import repository as repository_of
from layerstore.sql.reading.totals import Registry
from layerstore.web.cells import layer_url, repository_url
from layerstore.web.plot import plot
from layerstore.web.site import Site

Arguments = Mapping[str, str]

_LARGEST: Final = 200
"""How many repositories are shown by their number of layers."""
_is_size = re.compile("[0-9]{1,18}").fullmatch


@dataclass(frozen=True, slots=True)
class Page:
    """What a template shows.

    Attributes:
        template: its name.
        data: what the page says, as JSON has it.
        shown: what the template needs besides.
        status: of HTTP.
        refresh_s: after how many seconds the browser asks again; `None` for never.
    """

    template: str
    data: dict[str, Any]
    shown: dict[str, Any]
    status: int = 200
    refresh_s: int | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A page that is at another address."""

    url: str


Answer = Page | Elsewhere
View = Callable[[Site, Arguments], Awaitable[Answer]]


async def home(site: Site, _arguments: Arguments) -> Answer:
    """What this is, and what is in it."""
    counted, check = await site.glance()
    overview = counted.overview
    timeline = None if overview is None else overview.timeline
    return Page(
        "home.html",
        {"path": site.path, "source": site.source, "counts": asdict(counted), "verify": asdict(check)},
        {"counted": counted, "check": check, "plot": None if timeline is None else plot(timeline)},
        refresh_s=2 if overview is None and counted.error is None else None,
    )


async def layers(site: Site, arguments: Arguments) -> Answer:
    """The layers in order of time, all of them, or those of a registry or that contain a text."""
    registry = arguments.get("registry") or None
    part, sort = _chosen(arguments, "newest")
    found = await site.ask(
        newest_layers,
        site.store,
        registry=registry,
        part=part,
        oldest_first=sort == "oldest",
        after=_key(arguments.get("after")),
    )
    counted, _ = await site.glance()
    registries = () if counted.overview is None else counted.overview.registries
    return Page(
        "layers.html",
        {"registry": registry, **_listed(asdict(found))},
        {
            "found": found,
            "part": part,
            "sort": sort,
            "registry": registry,
            "registries": registries,
            "largest": _largest(registries, registry),
            "counted": counted,
            "looked_through": reading_layers.LOOKED_THROUGH,
        },
    )


async def repositories(site: Site, arguments: Arguments) -> Answer:
    """The repositories, by name or the largest first, all of them or those that contain a text."""
    found, shown = await _some_repositories(site, arguments)
    return Page("repositories.html", asdict(found), shown)


async def _some_repositories(
    site: Site, arguments: Arguments, registry: str | None = None
) -> tuple[Repositories, dict[str, Any]]:
    """Return a page of repositories as it was asked for, and what the template needs for the form."""
    part, sort = _chosen(arguments, "name")
    found = await site.ask(
        repositories_of,
        site.store,
        registry=registry,
        part=part,
        largest_first=sort == "layers",
        after=arguments.get("after", ""),
        size=_LARGEST if sort == "layers" else reading_layers.PAGE,
    )
    return found, {"found": found, "part": part, "sort": sort, "largest_of": _LARGEST}


async def registry(site: Site, arguments: Arguments) -> Answer:
    """The repositories of a registry by name, and the largest of them."""
    name = arguments.get("name", "")
    found, shown = await _some_repositories(site, arguments, name)
    counted, _ = await site.glance()
    known = () if counted.overview is None else counted.overview.registries
    counts = next((one for one in known if one.registry == name), None)
    if not found.repositories and counts is None and not shown["part"]:
        return _unknown("registry", name)
    return Page(
        "registry.html",
        {"registry": name, "counts": None if counts is None else asdict(counts), **asdict(found)},
        {**shown, "name": name, "counts": counts, "counted": counted},
    )


async def repository(site: Site, arguments: Arguments) -> Answer:
    """A repository, and its layers."""
    name = arguments.get("name", "")
    part, sort = _chosen(arguments, "newest")
    found = await site.ask(
        repository_of,
        site.store,
        name,
        part=part,
        oldest_first=sort == "oldest",
        after=_key(arguments.get("after")),
    )
    if found is None:
        return _unknown("repository", name)
    return Page(
        "repository.html",
        _listed(asdict(found)),
        {"found": found, "name": name, "part": part, "sort": sort, "registry": name.partition("/")[0]},
    )


async def layer(site: Site, arguments: Arguments) -> Answer:
    """A layer: its digests, the repositories that have it, and from which of them a push would mount it."""
    diff_id = arguments["diff_id"]
    found = await site.ask(layer_of, site.store, diff_id)
    if found is None:
        return _unknown("layer", diff_id)
    target, size = (arguments.get(name, "").strip() for name in ("target", "size"))
    size_refused = None if not size or _is_size(size) else f"a size is a number of bytes, not {size!r}"
    push, refused = None, None
    if target and found.unreadable is None and size_refused is None:
        try:
            push = await site.ask(_candidates, site, diff_id, target, int(size) if size else None)
        except InvalidInputError as error:
            refused = str(error)
    data = asdict(found)
    data["places"] = data.pop("associations")
    wrong = sorted({one.digest for one in found.associations if one.maps_to != diff_id})
    return Page(
        "layer.html",
        {
            **data,
            "target": target or None,
            "candidates": push and candidates.document(push),
            "target_error": refused,
            "size_error": size_refused,
        },
        {
            "found": found,
            "target": target,
            "size": size,
            "push": push,
            "refused": refused,
            "size_refused": size_refused,
            "wrong": wrong,
            "repositories": len({one.source_repository for one in found.associations if one.source_repository}),
        },
    )


def _candidates(site: Site, diff_id: str, target: str, size: int | None) -> candidates.LayerCandidates:
    # As a push without credentials: a page shall not have credentials read, let alone programs run that keep them.
    key = compute_hmac_key(AuthConfig())
    return candidates.layer_candidates(site.store, diff_id, split_reference(target).name, hmac_key=key, size=size)


async def find(site: Site, arguments: Arguments) -> Answer:
    """What is called, or begins with, what was typed; the one thing at once if it is one."""
    term = arguments.get("q", "").strip()
    found = await site.ask(search, site.store, term)
    if len({_place(match) for match in found}) == 1 and (url := _place(found[0])) is not None:
        return Elsewhere(url)
    return Page(
        "search.html",
        {"q": term, "matches": [asdict(match) for match in found]},
        {"term": term, "found": found},
    )


def _place(match: Match) -> str | None:
    """Return the page of what was found; `None` for a digest that leads to no layer."""
    if match.kind == "repository":
        return repository_url(match.name)
    return None if match.diff_id is None else layer_url(match.diff_id)


def _chosen(arguments: Arguments, sort: str) -> tuple[str, str]:
    """Return the text that a list shall contain, and how it is sorted."""
    return arguments.get("part", "").strip(), arguments.get("sort", sort)


def _unknown(kind: str, name: str) -> Page:
    return Page(
        "unknown.html", {"error": f"nothing is known of this {kind}", kind: name}, {"kind": kind, "name": name}, 404
    )


def _key(text: str | None) -> Key | None:
    """Read where a page begins: `TIME,NAME`.

    Raises:
        InvalidInputError: it is not that.
    """
    if not text:
        return None
    time_ns, comma, name = text.partition(",")
    try:
        key = (int(time_ns), name)
    except ValueError:
        key = (1 << 63, "")
    if not comma or not -(1 << 63) <= key[0] < 1 << 63:
        raise InvalidInputError(f"a page begins after TIME,NAME, not {text!r}: take the link of the page before")
    return key


def next_of(key: Key | str | None) -> str | None:
    """Write where the following page begins, as `_key` reads it."""
    return f"{key[0]},{key[1]}" if isinstance(key, tuple) else key


def _listed(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "next": next_of(data["next"])}


def _largest(registries: tuple[Registry, ...], chosen: str | None) -> list[tuple[str, int]]:
    """Return the ten largest repositories, of all registries or of one."""
    names = [each for one in registries if chosen in (None, one.registry) for each in one.largest]
    return sorted(names, key=lambda each: (-each[1], each[0]))[:10]


PAGES: Final[Mapping[str, View]] = {
    r"/$": home,
    r"/-/overview(?P<format>\.json)$": home,
    r"/-/layers(?P<format>\.json)?$": layers,
    r"/-/repositories(?P<format>\.json)?$": repositories,
    r"/-/registry(?P<format>\.json)?$": registry,
    r"/-/repository(?P<format>\.json)?$": repository,
    r"/-/layer/(?P<diff_id>[^/]+?)(?P<format>\.json)?$": layer,
    r"/-/search(?P<format>\.json)?$": find,
}
"""By the path, which is matched as it was sent."""


async def answer(view: View, site: Site, arguments: Arguments) -> Answer:
    """Return a page, also where the store or what was asked for is at fault."""
    try:
        return await view(site, arguments)
    except InvalidInputError as error:
        return Page("error.html", {"error": str(error), "status": 400}, {}, 400)
    except LayerstoreError as error:
        return Page("error.html", {"error": str(error), "status": 503}, {}, 503)
