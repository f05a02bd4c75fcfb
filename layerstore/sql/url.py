"""URLs of databases on a server: told from paths, and shown without their password."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import parse_qsl

_SCHEMES: Final = ("postgresql:", "postgresql+psycopg:")
_SECRET: Final = {"password", "sslpassword", "oauth_client_secret"}
# To PostgreSQL `#` is a character as any other, so that a password may have it.
_userinfo = re.compile(r"^([^/?#]*?//)([^/?]*)@").match
_host = r"(?:\[[^\]@]*\]|[^\[\]:@,]*)(?::[0-9]*)?"
_authority = re.compile(f"(?:[^@]*@)?{_host}(?:,{_host})*").fullmatch


def is_url(place: object) -> bool:
    """Tell whether a place is the URL of a database on a server; a `Path` never is."""
    return isinstance(place, str) and place.startswith(_SCHEMES)


def names_a_database(place: object) -> bool:
    """Tell whether a place is the URL of a database, in a file or on a server; a `Path` never is."""
    return is_url(place) or (isinstance(place, str) and place.startswith("sqlite:"))


def shown(place: str | os.PathLike[str]) -> str:
    """Return a place as messages have it: a URL without its password, a path as it is."""
    text = os.fspath(place)
    if not is_url(place):
        return text
    found = _userinfo(text)
    if found is not None:
        text = f"{found[1]}{found[2].partition(':')[0]}@{text[found.end() :]}"
    before, mark, query = text.partition("?")
    if not mark:
        return text
    kept = [one for one in query.split("&") if one.partition("=")[0].lower() not in _SECRET]
    return f"{before}?{'&'.join(kept)}" if kept else before


def options(url: str) -> list[tuple[str, str]]:
    """Return what stands behind the question mark of a URL, decoded, in its order."""
    return parse_qsl(url.partition("?")[2], keep_blank_values=True)


def is_well_formed(url: str) -> bool:
    """Tell whether a URL without its options has two slashes, one user at most, and hosts with ports. Else a password
    may be in it whose characters were not escaped."""
    scheme, slashes, rest = url.partition("//")
    return bool(slashes) and scheme in _SCHEMES and _authority(rest.partition("/")[0]) is not None
