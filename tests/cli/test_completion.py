"""Completion: the scripts, and what the shells get when they ask."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import DONE, ROOT, Run

SHELLS = ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_its_script(run: Run, shell: str):
    result = run("completion", shell)

    assert (result.code, result.err) == (DONE, "")
    assert f"_LAYERSTORE_COMPLETE={shell}_complete" in result.out
    assert "layerstore" in result.out


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_is_one_that_its_shell_can_read(run: Run, tmp_path: Path, shell: str):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(run("completion", shell).out)

    done = subprocess.run([program, "-n", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


COMPLETIONS = {
    "commands": ("layerstore ", 1, {"import", "export", "verify", "diff", "show", "list", "get", "set", "delete"}),
    "begun command": ("layerstore ver", 1, {"verify"}),
    "commands of a group": ("layerstore schema ", 2, {"current", "upgrade", "downgrade", "history"}),
    "options": ("layerstore import --on", 2, {"--on-conflict"}),
    "choices": ("layerstore import --on-conflict ", 3, {"merge", "replace", "keep"}),
    "namespaces": ("layerstore get ", 2, {"diffid-by-digest", "v1id", "v2metadata-by-diffid"}),
    "begun namespace": ("layerstore list v2", 2, {"v2metadata-by-diffid"}),
    "named queries": ("layerstore query @reg", 2, {"@registries", "@registry"}),
    "shells": ("layerstore completion ", 2, set(SHELLS)),
}


@pytest.mark.parametrize(("words", "at", "expected"), COMPLETIONS.values(), ids=COMPLETIONS.keys())
def test_a_shell_that_asks_gets_what_fits(run_process: Run, words: str, at: int, expected: set[str]):
    result = run_process(
        environment={"_LAYERSTORE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    )

    assert (result.code, result.err) == (DONE, "")
    offered = {line.partition(",")[2] for line in result.out.splitlines()}
    assert expected <= offered
    assert expected == offered or words.endswith(" ")


def test_bash_completes_for_real(run: Run, tmp_path: Path):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    (tmp_path / "script").write_text(run("completion", "bash").out)
    command = tmp_path / "layerstore"
    command.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m layerstore "$@"\n')
    command.chmod(0o755)
    ask = f"""
        PATH="{tmp_path}:$PATH"
        source "{tmp_path}/script"
        COMP_WORDS=(layerstore schema down) COMP_CWORD=2
        "$(complete -p layerstore | sed 's/.*-F \\([^ ]*\\).*/\\1/')" layerstore down schema
        echo "${{COMPREPLY[@]}}"
    """

    done = subprocess.run([bash, "-c", ask], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("downgrade\n", "")
