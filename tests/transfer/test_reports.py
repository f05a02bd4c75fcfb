"""Reports: `str()` is what the command prints, `to_json()` what `--json` prints, `ok` what the exit code says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerstore import (
    Report,
    SQLMetadataStore,
    diff,
    export_directory,
    import_directory,
    prune,
    recover,
    verify,
)
from layerstore.reports import with_iso_times
from tests.support.command import GOLDEN, Run


def reports(folder: Path) -> dict[str, Report]:
    with SQLMetadataStore(folder / "layers.db") as store:
        made: dict[str, Report] = {
            "import": import_directory(store, GOLDEN),
            "export": export_directory(store, folder / "distribution"),
            "verify": verify(store),
            "diff": diff(store, folder / "distribution"),
            "prune": prune(store, older_than="9999d"),
        }
    made["recover"] = recover(folder / "layers.db", folder / "new.db")
    return made


def test_each_report_reads_as_sentences_and_as_json(tmp_path: Path):
    for name, report in reports(tmp_path).items():
        text, document = str(report), json.loads(report.to_json())
        assert text, name
        assert "Report(" not in text, name
        assert text.splitlines() == list(report.lines()), name
        assert document["ok"] is report.ok is True, name
        assert repr(report).startswith(type(report).__name__), name


def test_a_report_says_what_the_command_prints(run: Run, database: Path, tmp_path: Path):
    assert database.name
    printed = run("import", GOLDEN).out
    with SQLMetadataStore(tmp_path / "other.db") as store:
        report = import_directory(store, GOLDEN)

    assert printed == "\n".join(report.lines(store=str(database))) + "\n"
    assert str(report) == printed.strip().replace(f" into {database}", "")


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (None, None),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
    ],
)
def test_a_time_stands_in_json_as_text_too(time_ns: int | None, text: str | None):
    assert with_iso_times([{"seen_at_ns": time_ns}]) == [{"seen_at_ns": time_ns, "seen_at": text}]
