"""README and the pages of docs/: their blocks, and what those print.

`python -m tests.docs.pages` runs every block and writes what it printed into the pages, and `docs/cli.md` from the
command. The tests hold each page against the same.

A page is one script: its blocks run in order, in one directory.

    console   each line behind `$ ` runs in a terminal of 80 columns; what it prints stands below it
    python    a program; what it prints stands in the block behind it, or as "prints `…`"
    sh        commands that must succeed; `/var/lib/docker` is a data root, `ssh HOST` runs on this machine
    sql       runs on the database of a daemon's directory; the answer stands in the block behind it

A block behind a comment `<!-- not run: why -->` is not run.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "docker-20.10.24" / "distribution"
HOME = "/home/you/layerstore"
WIDTH = 80
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^(?P<kept><!--[^\n]*-->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$"
    r"(?P<answer>\n\n```(?:text)?\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


class Place(NamedTuple):
    """Where a page's blocks run: a directory, and the environment that its commands see."""

    directory: Path
    environment: dict[str, str]


def place(folder: Path) -> Place:
    """Make a directory that has what the pages speak of: the checkout's tests, the command, `ssh`, a data root."""
    directory, programs, root = folder / "checkout", folder / "bin", folder / "docker"
    for made in (directory, programs, root / "image" / "overlay2", folder / "home"):
        made.mkdir(parents=True)
    for name in ("tests", "examples"):
        (directory / name).symlink_to(ROOT / name)
    shutil.copytree(GOLDEN, root / "image" / "overlay2" / "distribution")
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        os.utime(path, (1_714_564_800 + 60 * number,) * 2)
    _program(programs / "layerstore", f'exec {sys.executable} -m layerstore "$@"')
    _program(programs / "python3", f'exec {sys.executable} "$@"')
    _program(programs / "ssh", 'shift; exec sh -c "$*"')
    environment = {
        **{name: value for name, value in os.environ.items() if name != "LAYERSTORE_DB"},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LAYERSTORE_DB": "sample.db",
        "HOME": str(folder / "home"),
        "COLUMNS": str(WIDTH),
        "TERM": "dumb",
        "TZ": "UTC",
    }
    return Place(directory, environment)


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def on_a_terminal(line: str, where: Place) -> str:
    """Run a shell's line with its standard output on a terminal of 80 columns; return what it says, errors last."""
    master, slave = pty.openpty()
    pieces: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(master, 65536):
                pieces.append(piece)
        except OSError:  # how Linux says that nobody holds the other end
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=where.directory,
            env=where.environment,
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(slave)
        reader.join()
        os.close(master)
    said = b"".join(pieces).replace(b"\r\n", b"\n") + done.stderr
    return _at_home(said.decode(), where)


def _at_home(text: str, where: Place) -> str:
    docker = str(where.directory.parent / "docker")
    return text.replace(str(where.directory), HOME).replace(docker, "/var/lib/docker")


def _run(arguments: list[str], where: Place) -> str:
    done = subprocess.run(
        arguments,
        cwd=where.directory,
        env=where.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stdout}{done.stderr}"
    return _at_home(done.stdout, where)


def _console(text: str, where: Place) -> str:
    lines = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    return "".join(f"$ {line}\n{on_a_terminal(_here(line, where), where)}" for line in lines)


def _here(line: str, where: Place) -> str:
    return line.replace("/var/lib/docker", str(where.directory.parent / "docker"))


def rendered(page: Path, folder: Path) -> str:
    """Run a page's blocks; return the page with what they print."""
    where = place(folder)
    text = page.read_text()

    def render(match: re.Match[str]) -> str:
        language, program = match["language"], match["text"]
        whole = match[0]
        if (match["kept"] or "").startswith(("<!-- not run: ", "<!-- the test command -->")) or language not in (
            "console",
            "python",
            "sh",
            "sql",
        ):
            return whole
        before = whole[: match.start("text") - match.start()]
        if language == "console":
            return f"{before}{_console(program, where)}```" + (match["answer"] or "")
        if language == "sh":
            _run(["bash", "-euo", "pipefail", "-c", _here(program, where)], where)
            return whole
        if language == "sql":
            printed = _asked(program, text, where)
        else:
            printed = _run([sys.executable, "-c", _here(program, where)], where)
        if match["answer"] is None:
            after = " ".join(text[match.end() : match.end() + 400].split())
            assert after.startswith(f"prints `{printed.strip()}`") or not printed, (page.name, program, printed)
            return whole
        opening = match["answer"][: match.start("printed") - match.start("answer")]
        return f"{before}{program}```{opening}{printed}```"

    return _BLOCK.sub(render, text)


def _asked(sql: str, page: str, where: Place) -> str:
    """Ask the database of the data root; before a query for digests that no list has, remove the list that is named."""
    database = where.directory.parent / "fixture.db"
    command = ["layerstore", "--db", str(database)]
    if not database.exists():
        _run([*command, "import", "-q", str(where.directory.parent / "docker")], where)
    if "unlisted_digests" in sql:
        (named,) = re.findall(r"`layerstore (delete \S+\s+\S+)`", page)
        _run([*command, *named.split()], where)
    return _run([*command, "query", sql], where)


def section(page: Path, heading: str) -> str:
    """Return what stands below a heading of a page."""
    return page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def blocks(page: Path, language: str) -> list[str]:
    """Return the texts of a page's blocks in a language."""
    return [match["text"] for match in _BLOCK.finditer(page.read_text()) if match["language"] == language]


def main() -> None:
    """Write every page anew, or those that are named."""
    import tempfile

    from tests.docs.commands import PAGE, reference

    PAGE.write_text(reference())
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(rendered(page, Path(folder)))


if __name__ == "__main__":
    main()
