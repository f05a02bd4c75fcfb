"""OCI layouts for tests: the same layers, compressed as one likes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

OCI = "application/vnd.oci.image"


class Written(NamedTuple):
    """A layout, and what is in it: layers' DiffIDs, digests and sizes, and the digest of the manifest."""

    path: Path
    diff_ids: list[str]
    digests: list[str]
    sizes: list[int]
    manifest: str


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer(name: str, size: int) -> bytes:
    """Return the tar of a layer with one file of random bytes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = size
        tar.addfile(member, io.BytesIO(os.urandom(size)))
    return content.getvalue()


def write_layout(
    path: Path, layers: Sequence[bytes], *, compress: Callable[[bytes], bytes] = gzip.compress, suffix: str = "+gzip"
) -> Written:
    """Write a layout with one image of these layers. `suffix` ends their media type."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes, media_type: str) -> dict[str, object]:
        name = digest(content)
        (blobs / name.removeprefix("sha256:")).write_bytes(content)
        return {"mediaType": media_type, "digest": name, "size": len(content)}

    diff_ids = [digest(one) for one in layers]
    compressed = [compress(one) for one in layers]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), f"{OCI}.config.v1+json"),
        "layers": [blob(one, f"{OCI}.layer.v1.tar{suffix}") for one in compressed],
    }
    descriptor = blob(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return Written(
        path,
        diff_ids,
        [digest(one) for one in compressed],
        list(map(len, compressed)),
        digest((blobs / str(descriptor["digest"])[7:]).read_bytes()),
    )
