"""What is no whole archive is refused as a whole: one error that names the file, and a store as it was before."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import LayerstoreError, SQLMetadataStore, StoreOpenError, TransferError, diff, import_directory, verify
from tests.support.archives import TREE, Save, archive, member, tree_archive
from tests.support.command import BAD, Run, assert_one_line_error
from tests.support.entries import whole

MEMBERS = 4
WHOLE = archive(*(member(f"distribution/n/{number}", b"v" * 600) for number in range(MEMBERS)))
END = MEMBERS * 3 * 512
"""Where the members end and the blocks of zeros begin that say so."""

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
NOISE = random.Random(8).randbytes(3000)


def assert_refused(store: SQLMetadataStore, path: Path) -> None:
    """One error that names the file, and nothing in the store."""
    before = whole(store)
    with pytest.raises(TransferError) as raised:
        import_directory(store, path)
    assert raised.value.path == str(path)
    assert str(path) in str(raised.value)
    assert whole(store) == before


@pytest.fixture
def begun(sql_file: SQLMetadataStore) -> SQLMetadataStore:
    """A store that has one of the archive's entries, otherwise."""
    sql_file.set("n", "0", b"before")
    return sql_file


def test_the_archive_that_is_cut_below_is_good_as_a_whole(begun: SQLMetadataStore, save: Save):
    assert WHOLE[END - 512 : END].strip(b"\0")
    assert not WHOLE[END:].strip(b"\0")

    assert import_directory(begun, save(WHOLE)).read == MEMBERS


@pytest.mark.parametrize("cut", range(257, END + 1, 256), ids=lambda cut: f"after {cut} bytes")
def test_an_archive_cut_off_in_its_members_is_refused(cut: int, begun: SQLMetadataStore, save: Save):
    """Inside a header, inside a file, and between two of them."""
    assert_refused(begun, save(WHOLE[:cut]))


@pytest.mark.parametrize("cut", [512 * 3 * number for number in range(1, MEMBERS + 1)])
def test_an_archive_cut_off_between_two_members_is_refused(cut: int, begun: SQLMetadataStore, save: Save):
    """Only the end mark tells that this is not all there was."""
    assert_refused(begun, save(WHOLE[:cut]))


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_a_compressed_archive_that_is_cut_off_is_refused(
    compression: str, part: float, begun: SQLMetadataStore, save: Save
):
    noisy = archive(*(member(f"distribution/n/{at}", NOISE[at : at + 500]) for at in range(0, 3000, 500)))
    content = COMPRESS[compression](noisy)

    assert_refused(begun, save(content[: int(len(content) * part)]))


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_compressed_archive_without_its_last_byte_is_refused(compression: str, begun: SQLMetadataStore, save: Save):
    """The checksum is there, so that nobody takes what it does not match."""
    assert_refused(begun, save(COMPRESS[compression](WHOLE)[:-1]))


def test_a_gzip_whose_checksum_does_not_match_is_refused(begun: SQLMetadataStore, save: Save):
    content = bytearray(gzip.compress(WHOLE))
    content[-8] ^= 1

    assert_refused(begun, save(bytes(content)))


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(begun: SQLMetadataStore, save: Save):
    content = bytearray(WHOLE)
    content[3 * 512 + 150] ^= 1  # in the checksum of the second header

    assert_refused(begun, save(bytes(content)))


def test_noise_after_the_first_members_is_not_taken_for_the_end(begun: SQLMetadataStore, save: Save):
    assert_refused(begun, save(WHOLE[: 3 * 512] + NOISE))


GARBAGE = {
    "noise": NOISE,
    "text": b"no archive\n" * 100,
    "less than a block": NOISE[:511],
    "gzip of noise": gzip.compress(NOISE),
    "gzip of nothing": gzip.compress(b""),
    "gzip's first bytes": gzip.compress(NOISE)[:4],
    "gzip's first bytes, then noise": b"\x1f\x8b\x08" + NOISE,
    "bzip2 of noise": bz2.compress(NOISE),
    "bzip2's first bytes, then noise": b"BZh91AY&SY" + NOISE,
    "xz of noise": lzma.compress(NOISE),
    "xz's first bytes, then noise": b"\xfd7zXZ\0" + NOISE,
    "gzip in gzip": gzip.compress(gzip.compress(WHOLE)),
    "zip": b"PK\3\4" + NOISE,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_archive_is_refused(content: bytes, begun: SQLMetadataStore, save: Save):
    assert_refused(begun, save(content))


@pytest.mark.parametrize("content", [b"", b"\0", b"x" * 20], ids=len)
def test_a_file_with_next_to_nothing_in_it_is_refused(content: bytes, begun: SQLMetadataStore, save: Save):
    """Whether it was to be an archive or a database, nobody can tell."""
    path = save(content)
    before = whole(begun)

    with pytest.raises((TransferError, StoreOpenError), match=str(path)):
        import_directory(begun, path)
    assert whole(begun) == before
    assert path.read_bytes() == content


def test_the_command_says_in_one_line_which_archive_it_is(run: Run, save: Save):
    path = save(WHOLE[:700])

    for arguments in (("import", path), ("verify", path), ("diff", path, path)):
        done = run(*arguments)
        assert done.code == BAD
        assert_one_line_error(done, path, "archive")


def _assert_only_our_errors(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, SQLMetadataStore(":memory:") as store:
        path = Path(folder) / "x.tar"
        path.write_bytes(content)
        works: list[Callable[[], object]] = [
            lambda: import_directory(store, path),
            lambda: verify(path),
            lambda: diff(path, path),
        ]
        for work in works:
            try:
                report = work()
            except LayerstoreError as error:
                report = str(error)
            assert str(path) in str(report)


@given(st.sampled_from([b"", b"\x1f\x8b\x08", b"BZh91AY&SY", b"\xfd7zXZ\0", WHOLE[:512]]), st.binary(max_size=3000))
def test_no_bytes_raise_anything_but_errors_of_ours(start: bytes, rest: bytes):
    """Or they are taken: whatever they are, the answer is a report or an error that names the file."""
    _assert_only_our_errors(start + rest)


_GOOD = tree_archive("image/overlay2/distribution/")
assert len(TREE) > 3


@given(st.data())
def test_no_change_of_a_good_archive_raises_anything_but_errors_of_ours(data: st.DataObject):
    """Headers with a checksum that fits, so that the change is looked at."""
    content = bytearray(_GOOD)
    block = data.draw(st.integers(0, len(content) // 512 - 1)) * 512
    at = data.draw(st.integers(0, 511))
    new = data.draw(st.binary(min_size=1, max_size=12))[: 512 - at]
    content[block + at : block + at + len(new)] = new
    header = content[block : block + 512]
    header[148:156] = b" " * 8
    content[block + 148 : block + 156] = b"%06o\0 " % sum(header)

    _assert_only_our_errors(bytes(content))
