"""Docker's algorithm in plain Python, over a dict of files: what the services are held against.

Written from Docker's v2_metadata_service.go, not from our code; encodes and decodes with Python's `json` alone.
"""

from __future__ import annotations

import json

Association = tuple[str, str, str]
LISTS, DIFF_IDS = "v2metadata-by-diffid", "diffid-by-digest"

# What raw writes put into lists: bytes, and what Go's decoder makes of them (None: an error).
RAW_LISTS: list[tuple[bytes, list[Association] | None]] = [
    (b"", None),
    (b"[]", []),
    (b"null", []),
    (b"{}", None),
    (b'[{"Digest":1}]', None),
    (b"[{}]", [("", "", "")]),
    (b'[{"digest":"sha256:odd","HMAC":null,"x":[1]}]', [("sha256:odd", "", "")]),
    (
        b'[{"Digest":"a:b"},{"Digest":"a:b"},{"Digest":"c:d","SourceRepository":"r"}]',
        [("a:b", "", "")] * 2 + [("c:d", "r", "")],
    ),
    (b'[{"Digest":"a:b","SourceRepository":"x"}] ', [("a:b", "x", "")]),
    (b'[{"Digest":"a:b"}', None),
]
READINGS = dict(RAW_LISTS)


class MissingError(Exception):
    """There is no such file."""


class Docker:
    """The file tree, and what Docker's services do to it; `set_aside` is what only layerstore keeps."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.set_aside: list[tuple[str, bytes]] = []

    def add(self, diff_id: str, association: Association) -> None:
        entries = self.starting_list(diff_id)
        kept = [entry for entry in entries if entry != association]
        kept.append(association)
        self.files[LISTS, key(diff_id)] = encode(kept[-50:])
        self.files[DIFF_IDS, key(association[0])] = diff_id.encode()

    def remove(self, association: Association) -> None:
        diff_id = self.get_diff_id(association[0])
        if (LISTS, key(diff_id)) not in self.files:
            raise MissingError
        kept = [entry for entry in self.starting_list(diff_id) if entry != association]
        if kept:
            self.files[LISTS, key(diff_id)] = encode(kept)
        else:
            del self.files[LISTS, key(diff_id)]

    def get_diff_id(self, digest: str) -> str:
        if (DIFF_IDS, key(digest)) not in self.files:
            raise MissingError
        return self.files[DIFF_IDS, key(digest)].decode()

    def get_metadata(self, diff_id: str) -> list[Association] | None:
        """Return the list, or None if it cannot be read."""
        if (LISTS, key(diff_id)) not in self.files:
            raise MissingError
        return decode(self.files[LISTS, key(diff_id)])

    def starting_list(self, diff_id: str) -> list[Association]:
        value = self.files.get((LISTS, key(diff_id)))
        if value is None:
            return []
        entries = decode(value)
        if entries is None:
            if (key(diff_id), value) not in self.set_aside:
                self.set_aside.append((key(diff_id), value))
            return []
        return entries


def key(digest: str) -> str:
    return digest.replace(":", "/")


def encode(entries: list[Association]) -> bytes:
    document = [dict(zip(("Digest", "SourceRepository", "HMAC"), entry, strict=True)) for entry in entries]
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def decode(value: bytes) -> list[Association] | None:
    if value in READINGS:
        return READINGS[value]
    return [(entry["Digest"], entry["SourceRepository"], entry["HMAC"]) for entry in json.loads(value)]
