"""Make `0003.db`, the golden database of schema revision 0003, with the code of that revision.

    python -m tests.golden.make_0003

It is kept as it is from then on. What is in it is what is in `0001.db`, and what other engines know of three blobs.
"""

from __future__ import annotations

from pathlib import Path

from layerstore.sql.schema import HEAD
from tests.golden import make_0001

PATH = Path(__file__).parent / "0003.db"
DIGESTS = [f"sha256:{number:064x}" for number in range(101, 104)]
VALUES = [
    b'{"DiffID":"sha256:%064x","Compression":"gzip","Locations":[{"Repository":"docker.io/library/busybox"},'
    b'{"Repository":"localhost:5000/a","SeenAt":"2026-11-26T21:43:11.02529397Z"}]}' % 201,
    b'{"Conflicts":{"Compression":["gzip","zstd"]}}',
    b"[",
]
LOCATIONS = [
    (DIGESTS[0], "docker.io/library/busybox", None),
    (DIGESTS[0], "localhost:5000/a", 1_795_729_391_025_293_970),
]


def entries() -> list[tuple[str, str, bytes]]:
    """Return what is in the namespace `blob-by-digest`."""
    return [("blob-by-digest", digest.replace(":", "/"), value) for digest, value in zip(DIGESTS, VALUES, strict=True)]


def main() -> None:
    assert str(HEAD) == "0003", "the golden database of 0003 can be made by the code of 0003 only"
    make_0001.fill(PATH, entries())


if __name__ == "__main__":
    main()
