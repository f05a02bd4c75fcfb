"""The writers that are killed, and whose files a power cut strikes: what each does, and what must hold afterwards.

Each works in a directory of its own through the package's public names, and acknowledges its steps. `content` says what
is there in terms of what was to be written; `Writer.check` holds it against what a run that nobody disturbs has.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.robustness.crash import databases as db
from tests.robustness.crash import files
from tests.robustness.crash.content import Content
from tests.robustness.crash.process import Acknowledge


class Writer(NamedTuple):
    """A program that writes.

    Attributes:
        prepare: lays out the directory that it begins with.
        work: what it does, with an acknowledgement of each step.
        content: what is there; checks by the way that it is sound, and raises if it is not.
        again: whether doing it once more, after whatever happened, must bring what an undisturbed run brings.
        lags: whether a power cut may cost the last steps that were acknowledged: whole ones, from the end.
    """

    prepare: Callable[[Path], None]
    work: Callable[[Path, Acknowledge], None]
    content: Callable[[Path], Content]
    again: bool = False
    lags: bool = False

    def check(self, home: Path, steps: list[Content], acknowledged: int, *, cut: bool = False) -> None:
        """Hold what is there against the contents after each step of an undisturbed run."""
        found = self.content(home)
        first = 0 if cut and self.lags else acknowledged
        choices = [steps[step : step + 2] for step in range(first, acknowledged + 1)]
        wrong = [_wrong(found, *pair) for pair in choices]
        assert [] in wrong, f"after {acknowledged} steps: {wrong[-1]!r:.2000}"
        if self.again:
            self.work(home, lambda _: None)
            assert self.content(home) == steps[-1], "doing it again did not bring it to its end"


def _wrong(found: Content, before: Content, after: Content | None = None) -> list[object]:
    """Return the parts that are neither what they were before a step nor what they are after it."""
    after = before if after is None else after
    return [
        (part, found.get(part))
        for part in {*found, *before, *after}
        if found.get(part) not in (before.get(part), after.get(part))
    ]


WRITERS = {
    "add": Writer(db.some_layers, db.add, db.database),
    "add, normal durability": Writer(db.some_layers, db.add_in_normal_durability, db.database, lags=True),
    "add, new file": Writer(db.nothing, db.add_to_a_new_file, db.new_database),
    "set_many": Writer(db.some_layers, db.set_many, db.database, again=True),
    "large values": Writer(db.some_layers, db.write_much, db.much, again=True),
    "cut of the log": Writer(db.some_layers, db.cut_the_log, db.much, again=True),
    "overtaken": Writer(db.some_layers, db.overtaken, db.each_entry),
    "engine": Writer(db.some_layers, db.engine, db.database, again=True),
    "import": Writer(db.a_store_and_a_directory, db.import_, db.database_with_times, again=True),
    "import, new file": Writer(db.a_directory, db.import_by_command, db.database_with_times, again=True),
    "repair": Writer(db.a_damaged_store, db.repair, db.kept, again=True),
    "restore": Writer(db.something_in_quarantine, db.restore, db.database),
    "migration": Writer(db.an_older_database, db.upgrade, db.revision),
    "backup": Writer(db.some_layers, db.back_up, db.copy, again=True),
    "add to files": Writer(files.older_files, files.add_to_files, files.mended_files, again=True),
    "set files": Writer(files.older_files, files.set_files, files.files_below, again=True),
    "new directory": Writer(db.nothing, files.make_files, files.files_below, again=True),
    "export": Writer(db.a_store_and_a_directory, files.export, files.exported, again=True),
    "export, merging": Writer(db.a_store_and_a_directory, files.merge, files.exported, again=True),
    "export, new directory": Writer(files.a_store_alone, files.export, files.exported, again=True),
    "export --tar": Writer(files.an_older_archive, files.export_tar, files.archive, again=True),
    "repair of a directory": Writer(files.a_damaged_directory, files.repair_files, files.kept_files, again=True),
}

ON_FILES = {
    "backup": 100,
    "add to files": 40,
    "set files": 25,
    "new directory": 15,
    "export": 55,
    "export, merging": 65,
    "export, new directory": 90,
    "export --tar": 50,
    "repair of a directory": 35,
}
"""Those that write files of ours, and not SQLite's; with the number of states after a cut that are looked at, at least.

There are not more for the short ones."""
