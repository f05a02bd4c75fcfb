"""`python -m tests.promise`: run what tries to break the promises of docs/promises.md, and print the counts.

Arguments go to pytest: `python -m tests.promise --kills 3000 --cuts 30000 --load-seconds 60`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(["--rootdir", str(Path(__file__).parents[1]), "--promise", *sys.argv[1:]]))
