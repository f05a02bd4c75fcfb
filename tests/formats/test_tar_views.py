"""`verify` and `diff` look into an archive as into the directory that it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import TransferError, diff, verify
from tests.support.archives import SECONDS, TREE, Save, archive, member, tree_archive, write_tree
from tests.support.command import BAD, Run, assert_one_line_error
from tests.support.entries import LISTS, MAPPINGS, entries, layer_key

DAMAGED = {
    **TREE,
    f"{LISTS}/{layer_key(3)}": b"",
    f"{LISTS}/{layer_key(4)}": entries(99),
    f"{MAPPINGS}/{layer_key(5)}": b"sha256:" + b"7" * 64,
    f"{MAPPINGS}/{layer_key(6)}": b"half",
    f"{LISTS}/sha256/.tmp-left": b"",
    "outside": b"",
}


def test_verify_finds_in_an_archive_what_it_finds_in_the_directory(tmp_path: Path, save: Save):
    base = tmp_path / "distribution"
    write_tree(base, {path: value for path, value in DAMAGED.items() if "/" in path})
    (base / "outside").write_bytes(b"")
    path = save(archive(*(member(f"distribution/{name}", value) for name, value in DAMAGED.items())))

    packed, plain = verify(path), verify(base)

    def found(report: object) -> list[tuple[object, ...]]:
        return [(of.kind, of.severity, of.count) for of in getattr(report, "findings")]  # noqa: B009  # any report

    assert found(packed) == found(plain)
    assert {"unreadable", "unmapped", "no-entry", "temporary", "not-listed"} <= {of.kind for of in packed.findings}
    assert (packed.checked, packed.ok) == (plain.checked, False)


def test_diff_finds_an_archive_equal_to_its_directory_and_says_what_is_otherwise(tmp_path: Path, save: Save):
    base = write_tree(tmp_path / "distribution")
    path = save(tree_archive())

    same = diff(path, base)
    assert (same.equal, same.times_differ, same.ok) == (len(TREE), 0, True)

    (base / "n").mkdir()
    (base / "n" / "k").write_bytes(b"")
    other = diff(path, base)
    assert [(entry.namespace, entry.key) for entry in other.only_right] == [("n", "k")]
    assert not other.only_left


def test_an_archive_of_several_directories_is_not_mixed_up_as_one(save: Save):
    """A good list of one driver would hide the damaged one of another; a data root is refused likewise."""
    of_two = [
        member(f"image/{driver}/distribution/{LISTS}/{layer_key(1)}", value, mtime=SECONDS)
        for driver, value in (("overlay2", b"damaged"), ("vfs", entries(1)))
    ]
    path = save(archive(*of_two))

    for work in (lambda: verify(path), lambda: diff(path, path)):
        with pytest.raises(TransferError, match="several") as raised:
            work()
        assert raised.value.path == str(path)


def test_an_archive_is_not_repaired(save: Save, run: Run):
    path = save(tree_archive())
    before = path.read_bytes()

    with pytest.raises(TransferError):
        verify(path, repair=True)
    done = run("verify", "--repair", path)
    assert done.code == BAD
    assert_one_line_error(done, path)
    assert path.read_bytes() == before


def test_the_command_compares_standard_input(run_process: Run, tmp_path: Path):
    base = write_tree(tmp_path / "distribution")

    done = run_process("diff", "-", base, stdin=tree_archive())

    assert (done.code, done.err) == (0, "")
    assert f"left standard input, right {base}: {len(TREE)} entries are equal" in done.out


def test_the_command_checks_standard_input(run_process: Run):
    done = run_process("verify", "--json", "-", stdin=archive(member(f"{LISTS}/{layer_key(1)}", b"")))

    assert done.code == 1
    assert (done.json["path"], done.json["checked"]) == ("standard input", 1)
    assert [found["kind"] for found in done.json["findings"]] == ["unreadable"]
