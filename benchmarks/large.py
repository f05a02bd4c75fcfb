"""Made-up stores of any size, the same ones every time: what a fleet's registry of layers looks like.

Of a million layers: 2,100,000 associations, 50,000 repositories, 40 registries. Entries are made one after the other,
so that memory does not grow with the store.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from itertools import islice

from layerstore import V2Metadata
from layerstore.collection import Incoming
from layerstore.keys import DIFF_IDS, V1_IDS, V2_METADATA, Record
from layerstore.records import encode_list

REGISTRIES = 40
ASSOCIATIONS_PER_LAYER = 2.1
_LAYERS_PER_REPOSITORY = 20
_BATCH = 1000
_FIRST_NS, _SPAN_NS = 1_640_995_200_000_000_000, 3 * 365 * 86_400 * 1_000_000_000  # three years from 2022 on

# The lists of a thousand layers: a base image's at the cap, some of many teams, most of one to three entries.
_LENGTHS = [50] + [12] * 10 + [5] * 20 + [3] * 150 + [2] * 561 + [1] * 258
assert sum(_LENGTHS) == ASSOCIATIONS_PER_LAYER * len(_LENGTHS)
random.Random(1).shuffle(_LENGTHS)


def digest(text: str) -> str:
    """Return a digest that nobody else has."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def entries(number: int) -> int:
    """Return how many entries the list of this layer has."""
    return _LENGTHS[number % len(_LENGTHS)]


def repositories(layers: int) -> int:
    """Return how many repositories a store of so many layers has."""
    return max(layers // _LAYERS_PER_REPOSITORY, REGISTRIES)


def repository(number: int) -> str:
    """Return a repository's name: host, team, application."""
    # Registry by registry would make the large repositories, which have low numbers, neighbours.
    return f"{registry(number % REGISTRIES)}/team-{number * 7919 % 1000:03}/service-{number:05}"


def registry(number: int) -> str:
    return f"registry-{number:02}.example.com:5000"


def records(layers: int) -> Iterator[Record]:
    """Yield the entries of a store: a list and a mapping or two a layer, and a V1 ID for one layer in fifty."""
    chance = random.Random(layers)
    count = repositories(layers)
    for number in range(layers):
        diff_id = digest(f"layer {number}")
        time_ns = _FIRST_NS + chance.randrange(_SPAN_NS)
        blobs = [digest(f"blob {number}")]
        if number % 20 == 0:
            blobs.append(digest(f"blob {number}, compressed anew"))
        made: list[V2Metadata] = []
        for _ in range(entries(number)):
            blob = blobs[0] if len(made) < 1 else blobs[-1]
            # Few repositories have many layers, many have few.
            name = repository(number if number < count and not made else int(count * chance.random() ** 2))
            made.append(V2Metadata(blob, name, digest(f"{number} {name}")[7:] if chance.random() < 0.5 else ""))
        yield Record(V2_METADATA, diff_id.replace(":", "/"), encode_list(made), time_ns)
        if number % 50 == 0:
            blobs.append(digest(f"blob {number}, of which no list knows any more"))
            v1_id = digest(f"V1 image {number}")[7:]
            yield Record(V1_IDS, f"{registry(number // 50 % REGISTRIES)},{v1_id}", diff_id.encode(), time_ns)
        for blob in blobs:
            yield Record(DIFF_IDS, blob.replace(":", "/"), diff_id.encode(), time_ns)


def incoming(layers: int) -> Iterator[Incoming]:
    """Yield the entries as `SQLMetadataStore.load` takes them, in no order."""
    made = records(layers)
    while batch := list(islice(made, _BATCH)):
        yield Incoming(0, [(namespace, key, value, time_ns or 0) for namespace, key, value, time_ns in batch])
