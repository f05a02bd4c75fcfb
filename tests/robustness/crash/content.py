"""What the killed writers write, and the words in which a test says what is there."""

from __future__ import annotations

from typing import Any

from layerstore import FSMetadataStore, SQLMetadataStore, V2Metadata, V2MetadataService
from tests.support.strategies import sha256

Content = dict[Any, Any]
"""What is there, by parts. Of each part there is what was before a step or what is after it, never anything else."""

ALL = "all"
"""The only part of what happens whole or not at all."""


def association(number: int) -> V2Metadata:
    return V2Metadata(sha256(1000 + number), f"localhost:5000/team{number % 3}/app", f"{number:08x}")


def fill(store: SQLMetadataStore | FSMetadataStore, count: int) -> None:
    for number in range(count):
        V2MetadataService(store).add(sha256(number % 4), association(number))
