"""A made-up revision 0004, to prove the machinery of migrations before a real one is needed.

It adds a column with a default, a table, and data. Where `LAYERSTORE_TEST_PAUSE` names a FIFO, the migration writes to
it when half of the work is done, and waits there for ever: the moment for a test to kill the process.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from layerstore import SQLMetadataStore
from layerstore.sql import migrate, schema
from layerstore.sql.sqlite import opening, recognition
from layerstore.sql.sqlite.recognition import Ours

ROOT = Path(__file__).resolve().parents[2]
PAUSE = "LAYERSTORE_TEST_PAUSE"

TEXT = '''"""Made up.

Revision: 0004, after 0003.
"""

import os
import signal

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def pause():
    if "LAYERSTORE_TEST_PAUSE" in os.environ:
        with open(os.environ["LAYERSTORE_TEST_PAUSE"], "w") as waiting:
            waiting.write("half")
        signal.pause()


def upgrade():
    op.create_table("notes", sa.Column("key", sa.Text, primary_key=True), sa.Column("text", sa.Text))
    op.add_column("metadata", sa.Column("seen", sa.Integer, nullable=False, server_default="7"))
    op.execute("INSERT INTO notes SELECT namespace || ' ' || key, 'note' FROM metadata")
    pause()
    op.execute("UPDATE metadata SET seen = 8")


def downgrade():
    op.drop_table("notes")
    pause()
    op.drop_column("metadata", "seen")
'''


def make(folder: Path) -> Path:
    """Copy the migrations into `folder`, add 0004, and return where they are."""
    location = folder / "100% next" / "migrations"
    shutil.copytree(ROOT / "migrations", location, ignore=shutil.ignore_patterns("__pycache__"))
    (location / "versions" / "0004_made_up.py").write_text(TEXT)
    return location


def install(location: Path, monkeypatch: Any = None) -> None:
    """Let this process take 0004 for the head; for the time of a test, if pytest's `monkeypatch` is given."""
    set_attribute = setattr if monkeypatch is None else monkeypatch.setattr
    set_attribute(migrate, "script_location", lambda: location)
    for module in (schema, migrate, opening, recognition):
        set_attribute(module, "HEAD", "0004")
    ours = Ours([*map(_with_column, schema.creation()), NOTES])
    set_attribute(recognition, "ours", lambda: ours)


NOTES = "CREATE TABLE notes (key TEXT NOT NULL, text TEXT, PRIMARY KEY (key))"


def _with_column(statement: str) -> str:
    """Add the new column to the schema, where ALTER TABLE does."""
    last = "modified_at_ns BIGINT NOT NULL,"
    return statement.replace(last, f"{last} seen INTEGER DEFAULT '7' NOT NULL,")


def open_with_next_revision(path: str, location: Path) -> None:
    """Open a file, which upgrades it, in a process of its own."""
    install(location)
    with SQLMetadataStore(path) as store:
        store.set("opened by", str(os.getpid()), b"")


def downgrade_with_next_revision(path: str, location: Path) -> None:
    """Take a file back to 0003, in a process of its own."""
    install(location)
    opening.move_to(path, "0003")
