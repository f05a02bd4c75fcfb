"""The pages of our own: what each asks the store, and which template shows it. Each is there as JSON too."""

from __future__ import annotations

import re
from asyncio import to_thread
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from heapq import nsmallest
from typing import Any, Final
from urllib.parse import quote, urlencode

from layerstore.errors import InvalidInputError
from layerstore.hmac import AuthConfig, compute_hmac_key
from layerstore.push.layers import LayerCandidates, document, layer_candidates
from layerstore.repository import canonical_repository
from layerstore.sql.reading import layers as reading
from layerstore.sql.reading import search as finding
from layerstore.sql.reading.layers import Key
from layerstore.sql.reading.totals import LARGEST, Timeline
from layerstore.web.site import Site
from layerstore.words import utc

Arguments = Mapping[str, str]

_LARGEST: Final = 200
"""How many repositories are shown by their number of layers."""
_LEAST_BARS: Final = 13
_MINUTE_NS: Final = 60 * 1_000_000_000
_DAY_NS: Final = 1440 * _MINUTE_NS
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
    shown: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    refresh_s: int | None = None


Answer = Page | str
"""A page, or the address where it is."""
View = Callable[[Site, Arguments], Awaitable[Answer]]


def layer_url(diff_id: str) -> str:
    """Return where a layer's page is."""
    return f"/-/layer/{quote(diff_id, safe=':+')}"


def repository_url(name: str) -> str:
    """Return where a repository's page is."""
    return f"/-/repository?{urlencode({'name': name}, safe='/:')}"


def registry_url(name: str) -> str:
    """Return where the repositories of a registry are."""
    return f"/-/repositories?{urlencode({'registry': name}, safe=':')}"


def search_url(term: str) -> str:
    """Return where a search leads."""
    return f"/-/search?{urlencode({'q': term}, safe='/:')}"


async def home(site: Site, _arguments: Arguments) -> Answer:
    """What this is, and what is in it."""
    counted, check = await site.glance()
    overview = counted.report
    timeline = None if overview is None else overview.timeline
    return Page(
        "home.html",
        {"path": site.path, "source": site.source, "counts": asdict(counted), "verify": check and asdict(check)},
        {"counted": counted, "check": check, "plot": None if timeline is None else plot(timeline)},
        refresh_s=2 if overview is None and counted.error is None else None,
    )


@dataclass(frozen=True, slots=True)
class Plot:
    """Layers over time, as the template draws them in SVG: no page has a script.

    Attributes:
        bars: for each span of time, also of none, when it begins and ends in words, and how many layers.
        top: what the height stands for.
        span: how long a bar's time is, in words.
    """

    bars: tuple[tuple[str, str, int], ...]
    top: int
    span: str


def plot(timeline: Timeline) -> Plot:
    """Lay out the bars; a few of them have empty time around them, or one would fill the plot."""
    missing = max(0, _LEAST_BARS - len(timeline.counts))
    counts = (*[0] * (missing // 2), *timeline.counts, *[0] * (missing - missing // 2))
    start_ns, width_ns = timeline.start_ns - missing // 2 * timeline.width_ns, timeline.width_ns
    edges = [_moment(start_ns + number * width_ns, width_ns) for number in range(len(counts) + 1)]
    return Plot(tuple(zip(edges, edges[1:], counts, strict=False)), max(counts), _span(width_ns // 1_000_000_000))


def _moment(time_ns: int, step_ns: int) -> str:
    """Return a time as fine as the steps that it is shown in."""
    text = utc(time_ns)
    if step_ns >= _DAY_NS:
        return text[:10]
    return text[5:16] if step_ns >= _MINUTE_NS else text[11:19]


def _span(seconds: int) -> str:
    units = {"day": 86_400, "hour": 3600, "minute": 60, "second": 1}
    unit, count = next((unit, seconds // length) for unit, length in units.items() if seconds % length == 0)
    return unit if count == 1 else f"{count} {unit}s"


async def layers(site: Site, arguments: Arguments) -> Answer:
    """The layers in order of time, all of them, or those of a registry or that contain a text."""
    registry = arguments.get("registry") or None
    part, sort = _chosen(arguments, "newest")
    found = await to_thread(
        reading.newest_layers,
        site.store,
        registry=registry,
        part=part,
        oldest_first=sort == "oldest",
        after=_key(arguments.get("after")),
    )
    counted, _ = await site.glance()
    registries = () if counted.report is None else counted.report.registries
    largest = [each for one in registries if registry in (None, one.registry) for each in one.largest]
    return Page(
        "layers.html",
        {"registry": registry, **_listed(found)},
        {
            "found": found,
            "part": part,
            "sort": sort,
            "registries": registries,
            "largest": nsmallest(LARGEST, largest, key=lambda each: (-each[1], each[0])),
            "counted": counted,
            "looked_through": reading.LOOKED_THROUGH,
        },
    )


async def repositories(site: Site, arguments: Arguments) -> Answer:
    """The repositories, by name or the largest first: all, those of a registry, or those that contain a text."""
    registry = arguments.get("registry") or None
    part, sort = _chosen(arguments, "name")
    found = await to_thread(
        finding.repositories,
        site.store,
        registry=registry,
        part=part,
        largest_first=sort == "layers",
        after=arguments.get("after", ""),
        size=_LARGEST if sort == "layers" else reading.PAGE,
    )
    data, shown = asdict(found), {"found": found, "part": part, "sort": sort, "largest_of": _LARGEST}
    if registry is None:
        return Page("repositories.html", data, shown)
    counted, _ = await site.glance()
    known = () if counted.report is None else counted.report.registries
    counts = next((one for one in known if one.registry == registry), None)
    if not found.repositories and counts is None and not part:
        return _unknown("registry", registry)
    data |= {"registry": registry, "counts": None if counts is None else asdict(counts)}
    return Page("repositories.html", data, {**shown, "counts": counts, "counted": counted})


async def repository(site: Site, arguments: Arguments) -> Answer:
    """A repository, and its layers."""
    name = arguments.get("name", "")
    part, sort = _chosen(arguments, "newest")
    found = await to_thread(
        finding.repository,
        site.store,
        name,
        part=part,
        oldest_first=sort == "oldest",
        after=_key(arguments.get("after")),
    )
    if found is None:
        return _unknown("repository", name)
    return Page("repository.html", _listed(found), {"found": found, "name": name, "part": part, "sort": sort})


async def layer(site: Site, arguments: Arguments) -> Answer:
    """A layer: its digests, the repositories that have it, and from which of them a push would mount it."""
    diff_id = arguments["diff_id"]
    found = await to_thread(reading.layer, site.store, diff_id)
    if found is None:
        return _unknown("layer", diff_id)
    target, size = (arguments.get(name, "").strip() for name in ("target", "size"))
    size_refused = None if not size or _is_size(size) else f"a size is a number of bytes, not {size!r}"
    push, refused = None, None
    if target and found.unreadable is None and size_refused is None:
        try:
            push = await to_thread(_candidates, site, diff_id, target, int(size) if size else None)
        except InvalidInputError as error:
            refused = str(error)
    data = asdict(found)
    data["places"] = data.pop("associations")
    data |= {"target": target or None, "candidates": push and document(push)}
    data |= {"target_error": refused, "size_error": size_refused}
    return Page("layer.html", data, {"found": found, "target": target, "size": size, "push": push})


def _candidates(site: Site, diff_id: str, target: str, size: int | None) -> LayerCandidates:
    # As a push without credentials: a page shall not have credentials read, let alone programs run that keep them.
    key = compute_hmac_key(AuthConfig())
    return layer_candidates(site.store, diff_id, canonical_repository(target), hmac_key=key, size=size)


async def find(site: Site, arguments: Arguments) -> Answer:
    """What is called, or begins with, what was typed; the one thing at once if it is one."""
    term = arguments.get("q", "").strip()
    found = await to_thread(finding.search, site.store, term)
    if len({_place(match) for match in found}) == 1 and (url := _place(found[0])) is not None:
        return url
    data = {"q": term, "matches": [asdict(match) for match in found]}
    return Page("search.html", data, {"term": term, "found": found})


def _place(match: finding.Match) -> str | None:
    """Return the page of what was found; `None` for a digest that leads to no layer."""
    if match.kind == "repository":
        return repository_url(match.name)
    return None if match.diff_id is None else layer_url(match.diff_id)


def _chosen(arguments: Arguments, sort: str) -> tuple[str, str]:
    """Return the text that a list shall contain, and how it is sorted."""
    return arguments.get("part", "").strip(), arguments.get("sort", sort)


def _unknown(kind: str, name: str) -> Page:
    data = {"error": f"nothing is known of this {kind}", kind: name}
    return Page("unknown.html", data, {"kind": kind, "name": name}, 404)


def _key(text: str | None) -> Key | None:
    """Read where a page begins: `TIME,NAME`.

    Raises:
        InvalidInputError: it is not that.
    """
    if not text:
        return None
    time_ns, comma, name = text.partition(",")
    if not (comma and re.fullmatch("-?[0-9]{1,19}", time_ns) and -(1 << 63) <= int(time_ns) < 1 << 63):
        raise InvalidInputError(f"a page begins after TIME,NAME, not {text!r}: take the link of the page before")
    return int(time_ns), name


def _listed(found: reading.Layers | finding.Repository) -> dict[str, Any]:
    """Return a list for JSON, with where the following page begins as `_key` reads it."""
    return {**asdict(found), "next": found.next and f"{found.next[0]},{found.next[1]}"}


PAGES: Final[Mapping[str, View]] = {
    r"/$": home,
    r"/-/overview(?P<format>\.json)$": home,
    r"/-/layers(?P<format>\.json)?$": layers,
    r"/-/repositories(?P<format>\.json)?$": repositories,
    r"/-/repository(?P<format>\.json)?$": repository,
    r"/-/layer/(?P<diff_id>[^/]+?)(?P<format>\.json)?$": layer,
    r"/-/search(?P<format>\.json)?$": find,
}
"""By the path, which is matched as it was sent."""
