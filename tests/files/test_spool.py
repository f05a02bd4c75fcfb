"""What two passes keep between them: exactly what was added, in its order, without holding it in memory."""

from __future__ import annotations

import errno
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import TransferError
from layerstore.files.temporary import Spool
from tests.support.strategies import sha256

_fields = st.one_of(st.text(), st.binary(), st.none(), st.integers(-(2**63), 2**63 - 1))


@given(st.lists(st.lists(_fields).map(tuple)))
def test_what_was_added_comes_back_each_time(items: list[tuple[object, ...]]):
    with Spool() as spool:
        for item in items:
            spool.add(*item)

        assert len(spool) == len(items)
        assert list(spool) == items
        assert list(spool) == items


@pytest.mark.slow
def test_a_hundred_thousand_places_take_no_memory():
    tracemalloc.start()
    try:
        with Spool() as spool:
            for number in range(100_000):
                spool.add(sha256(number), number)
            assert sum(number for _, number in spool) == sum(range(100_000))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # all of them are 8 MB in the file alone
    finally:
        tracemalloc.stop()


def test_no_room_for_notes_is_an_error_that_says_where(monkeypatch: pytest.MonkeyPatch):
    with Spool() as spool:

        def write(_part: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(spool._file, "write", write)
        with pytest.raises(TransferError, match="No space left on device; set TMPDIR"):
            spool.add("digest", "key")
