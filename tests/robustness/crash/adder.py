"""The process that the crash tests kill: it adds, and acknowledges each add when it has returned."""

from __future__ import annotations

import random
from typing import Any

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from tests.support.strategies import sha256

LAYERS = 4
"""Few, so that the lists reach the cap of 50 and old entries are evicted."""


def association(writer: int, number: int) -> tuple[str, V2Metadata]:
    """Return what a writer adds as its `number`-th: a layer, and an association that no other has."""
    layer = random.Random(writer * 100_003 + number).randrange(LAYERS)
    digest = f"sha256:{writer:032x}{number:032x}"
    return sha256(layer), V2Metadata(digest, f"localhost:5000/team{number % 7}/app", f"{number:08x}")


def write(acknowledge: Any, path: str, writer: int) -> None:
    """Add for ever; some adds in threes, in one transaction, which is acknowledged by its last number."""
    store = SQLMetadataStore(path)
    v2 = V2MetadataService(store)
    number = 0
    while True:
        if number % 5 == 4:
            with store.transaction():
                for step in range(3):
                    v2.add(*association(writer, number + step))
            number += 3
        else:
            v2.add(*association(writer, number))
            number += 1
        acknowledge.send(number)
