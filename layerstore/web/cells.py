"""How a value looks in Datasette's tables: bytes as text, digests and repositories as links, HMACs short."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup, escape

from layerstore.digest import is_digest
from layerstore.words import short, short_hmac

_WRAPPED_FROM = 40
_FOLDED_FROM = 200
_SHOWN_HEX = 64
_LONGEST = 20_000  # bytes or characters of one value in a page, more than a list at the cap has
_is_time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").fullmatch
_hmac_in_json = re.compile(r'("hmac"\s*:\s*")([^"\\…]{9,})(?=["…])', re.IGNORECASE)


def layer_url(diff_id: str) -> str:
    """Return where a layer's page is."""
    return f"/-/layer/{quote(diff_id, safe=':+')}"


def repository_url(name: str) -> str:
    """Return where a repository's page is."""
    return f"/-/repository?{urlencode({'name': name}, safe='/:')}"


def registry_url(name: str) -> str:
    """Return where a registry's page is."""
    return f"/-/registry?{urlencode({'name': name}, safe=':')}"


def search_url(term: str) -> str:
    """Return where a search leads."""
    return f"/-/search?{urlencode({'q': term}, safe='/:')}"


def cell(value: Any, column: str) -> Markup | None:
    """Return how a value is shown, or `None` to leave it to Datasette."""
    if isinstance(value, bytes):
        return _text(_readable(value))
    if not isinstance(value, str) or not value:
        return None
    if column.endswith("_at") and _is_time(value):
        return Markup('<time class="time" datetime="{}">{}</time>').format(value, f"{value[:10]} {value[11:19]} UTC")
    if column == "hmac":
        return Markup('<span class="mono">{}</span>').format(short_hmac(value))
    url = _url(value, column)
    if url is None:
        return _text(value if len(value) <= _LONGEST else f"{value[:_LONGEST]}… ({len(value):,} characters)")
    return Markup('<a class="mono" href="{}" title="{}">{}</a>').format(
        url, value, short(value) if is_digest(value) else value
    )


def _url(value: str, column: str) -> str | None:
    """Return the page about a value, or `None` if it has none."""
    if column == "source_repository":
        return repository_url(value)
    if column == "registry":
        return registry_url(value)
    if is_digest(value):
        return layer_url(value) if column == "diff_id" else search_url(value)
    return None


def _readable(value: bytes) -> str:
    """Return bytes as their text, or in hex where they are none."""
    head = value[:_LONGEST]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        was_cut = len(value) > _LONGEST and error.start > _LONGEST - 4  # in the middle of a character
        text = head[: error.start].decode() if was_cut else "\0"
    if all(character >= " " or character in "\t\n\r" for character in text) and "\x7f" not in text:
        return text if len(value) <= _LONGEST else f"{text}… ({len(value):,} bytes)"
    shown = value[: _SHOWN_HEX // 2].hex()
    return f"x'{shown}'" if len(value) <= _SHOWN_HEX // 2 else f"x'{shown}…' ({len(value):,} bytes)"


def _text(text: str) -> Markup:
    text = _hmac_in_json.sub(lambda match: match[1] + short_hmac(match[2]), text)
    if len(text) <= _WRAPPED_FROM:
        return escape(text)
    if len(text) <= _FOLDED_FROM:
        return Markup('<span class="long">{}</span>').format(text)
    return Markup('<details class="fold"><summary>{}…</summary><pre>{}</pre></details>').format(text[:80], text)
