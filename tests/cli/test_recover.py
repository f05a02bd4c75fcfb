"""`recover`: what a damaged database still holds."""

from __future__ import annotations

from pathlib import Path

from layerstore import SQLMetadataStore
from tests.support.command import DONE, FOUND, GOLDEN_FILES, Run


def test_it_says_what_it_made_and_the_new_one_is_used_like_any_other(run: Run, imported: Path, tmp_path: Path):
    new = tmp_path / "new.db"
    result = run("recover", imported, new)

    assert (result.code, result.err) == (DONE, "")
    assert result.out == f"recovered {imported} to {new}: {GOLDEN_FILES} entries, 0 values in quarantine\n"
    assert run("--db", new, "diff", imported).code == DONE
    assert run("--db", new, "set", "n", "k", "v").code == DONE


def test_pages_that_cannot_be_read_are_a_finding(run: Run, imported: Path, tmp_path: Path):
    content = bytearray(imported.read_bytes())
    content[-4096:] = b"\xa5" * 4096
    imported.write_bytes(content)

    result = run("recover", imported, tmp_path / "new.db", "--quiet")
    assert (result.code, result.out) == (
        FOUND,
        f"1 of {len(content) // 4096} pages could not be read in full: import their sources again\n",
    )
    report = run("recover", imported, tmp_path / "json.db", "--json").json
    assert (report["unreadable_pages"], report["ok"]) == (1, False)
    with SQLMetadataStore(tmp_path / "new.db") as store:
        assert sum(1 for _ in store.entries()) == report["recovered"]
