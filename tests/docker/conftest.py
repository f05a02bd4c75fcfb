"""A data root as a daemon writes it, made by hand, and damaged at will."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.strategies import sha256

FIRST, SECOND, THIRD = (sha256(start << 248) for start in (0xA0, 0xB0, 0xC0))


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class DataRoot:
    """A data root with images of one storage driver or more."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def driver(self, name: str = "overlay2", *, above: str = "") -> Path:
        return self.path / above / "image" / name

    def image(
        self,
        names: Sequence[str],
        layers: Mapping[str, int] | Sequence[tuple[str, int]],
        *,
        driver: str = "overlay2",
        above: str = "",
        comment: str = "",
    ) -> str:
        """Add an image under these names, each `repository:tag` or `repository@digest`; return its ID."""
        base = self.driver(driver, above=above)
        pairs = list(layers.items()) if isinstance(layers, Mapping) else list(layers)
        config = {"comment": comment, "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _ in pairs]}}
        image_id = self.config(base, json.dumps(config).encode())
        chain = ""
        for diff_id, size in pairs:
            chain = digest(f"{chain} {diff_id}".encode()) if chain else diff_id
            folder = base / "layerdb" / chain.replace(":", "/")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "diff").write_text(diff_id)
            (folder / "size").write_text(str(size))
        repositories = base / "repositories.json"
        known = json.loads(repositories.read_text()) if repositories.exists() else {"Repositories": {}}
        for name in names:
            repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
            known["Repositories"].setdefault(repository, {})[name] = image_id
        repositories.write_text(json.dumps(known))
        return image_id

    @staticmethod
    def config(base: Path, content: bytes) -> str:
        """Write an image's configuration, under its digest; return that."""
        image_id = digest(content)
        file = base / "imagedb" / "content" / image_id.replace(":", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return image_id


@pytest.fixture
def data_root(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path / "docker")
