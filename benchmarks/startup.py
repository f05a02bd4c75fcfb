"""How soon the command answers, beside what cannot start sooner."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from benchmarks import large
from benchmarks.rounds import Side, Times, in_turn
from benchmarks.rows import OURS, Result
from layerstore.keys import DIFF_IDS, digest_key

BARE_CLICK = "bare click program"
SQLALCHEMY = "import sqlalchemy"
_PROGRAM = """#!{python}
import click


@click.command()
@click.option("--name", default="world", help="Whom to greet.")
def main(name: str) -> None:
    \"\"\"Greet somebody.\"\"\"
    click.echo(f"hello {{name}}")


main()
"""


def measure(database: Path, folder: Path, rounds: int) -> dict[str, tuple[Result, Times]]:
    """Measure both, in pairs."""
    program = folder / "bare"
    program.write_text(_PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    # As it is installed: what pip writes for it imports less than `python -m`.
    command = str(Path(sysconfig.get_path("scripts")) / "layerstore")
    key = digest_key(large.digest("blob 1"))
    get = [command, "--db", str(database), "get", DIFF_IDS, key]
    times = {
        "help": in_turn({OURS: _runs([command, "--help"]), BARE_CLICK: _runs([str(program), "--help"])}, rounds),
        "get_command": in_turn(
            {OURS: _runs(get), SQLALCHEMY: _runs([sys.executable, "-c", "import sqlalchemy"])}, rounds
        ),
    }
    bases = {"help": BARE_CLICK, "get_command": SQLALCHEMY}
    return {row: (Result(each.ratio(OURS, bases[row]), each.median(bases[row])), each) for row, each in times.items()}


def _runs(command: list[str]) -> Side:
    def side(_number: int) -> float:
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start

    return side
