"""Make `0002.db`, the golden database of schema revision 0002, with the code of that revision.

    python -m tests.golden.make_0002

It is kept as it is from then on. What is in it is what is in `0001.db`.
"""

from __future__ import annotations

from pathlib import Path

from layerstore.sql.schema import HEAD
from tests.golden import make_0001

PATH = Path(__file__).parent / "0002.db"


def main() -> None:
    assert str(HEAD) == "0002", "the golden database of 0002 can be made by the code of 0002 only"
    make_0001.fill(PATH)


if __name__ == "__main__":
    main()
