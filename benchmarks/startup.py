"""What a process costs that starts, does one thing, and ends: processor time, beside what cannot start sooner."""

from __future__ import annotations

import compileall
import os
import resource
import subprocess
import sys
import sysconfig
from pathlib import Path

import layerstore
from benchmarks import large
from benchmarks.rounds import Side, Times, in_turn
from benchmarks.rows import OURS, Result
from layerstore.keys import DIFF_IDS, digest_key

BARE_CLICK = "bare click program"
IMPORTS = "import sqlite3, click"
_PROGRAM = """#!{python}
import click


@click.command()
@click.option("--name", default="world", help="Whom to greet.")
def main(name: str) -> None:
    \"\"\"Greet somebody.\"\"\"
    click.echo(f"hello {{name}}")


main()
"""
_LIBRARY = """
import sys
from layerstore import SQLMetadataStore
SQLMetadataStore(sys.argv[1]).get(*sys.argv[2:])
"""


def measure(database: Path, folder: Path, rounds: int) -> dict[str, tuple[Result, Times]]:
    """Measure all, in turn. The seconds are the processor's, of the process and of those that it started."""
    # As pip does when it installs: without, each process would compile the package anew where it may not be written to.
    compileall.compile_dir(os.path.dirname(str(layerstore.__file__)), quiet=2)
    program = folder / "bare"
    program.write_text(_PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    # As it is installed: what pip writes for it imports less than `python -m`.
    command = [str(Path(sysconfig.get_path("scripts")) / "layerstore")]
    there = [*command, "--db", str(database)]
    digest = large.digest("blob 1")
    few = folder / "few.db"
    subprocess.run([*command, "--db", str(few), "set", "n", "k", "v"], check=True)
    starts = {
        "start_get": [*there, "get", DIFF_IDS, digest_key(digest)],
        "start_set": [*there, "set", DIFF_IDS, digest_key(large.digest("set by a command")), digest],
        "start_list": [*command, "--db", str(few), "list"],
        "start_query": [*there, "query", "@digest", digest],
        "start_show": [*there, "show", digest],
        "start_library": [sys.executable, "-c", _LIBRARY, str(database), DIFF_IDS, digest_key(digest)],
    }
    sides = {row: _runs(line) for row, line in starts.items()}
    together = in_turn({IMPORTS: _runs([sys.executable, "-c", IMPORTS]), **sides}, rounds)
    helped = in_turn({OURS: _runs([*command, "--help"]), BARE_CLICK: _runs([str(program), "--help"])}, rounds)
    measured = {row: (Result(together.ratio(row, IMPORTS), together.median(IMPORTS)), together) for row in starts}
    return {"help": (Result(helped.ratio(OURS, BARE_CLICK), helped.median(BARE_CLICK)), helped), **measured}


def _runs(command: list[str]) -> Side:
    def side(_number: int) -> float:
        before = _used_s()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return _used_s() - before

    return side


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
