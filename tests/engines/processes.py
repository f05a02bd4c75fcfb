"""Programs that a trial starts: found, waited for, and gone when it is over."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DEADLINE_S = 60.0
"""How long a program may take to answer, or to end. None takes a tenth of it; it only has to end some day."""

_POLL_S = 0.05

SEARCH = os.pathsep.join(
    part
    for part in (
        os.environ.get("LAYERSTORE_TRIAL_PATH"),  # a folder with another release's programs
        # The packages' folders before PATH: client and daemon of one release, not a newer client from elsewhere.
        "/usr/sbin:/usr/bin:/sbin:/bin",
        os.environ.get("PATH"),
    )
    if part
)

PROGRAMS = ("dockerd", "containerd", "docker", "docker-registry", "setpriv", "unshare")


def why_not() -> str | None:
    """Return why no daemon can be started here, or `None` if one can."""
    if os.geteuid() != 0:
        return "a Docker daemon of one's own needs root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=SEARCH) is None]
    if missing:
        return f"missing: {', '.join(missing)} (.ci/packages names the packages)"
    if subprocess.run([program("unshare"), "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "a Docker daemon needs the right to mount (CAP_SYS_ADMIN)"
    return None


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCH)
    assert found is not None, f"{name} is not there"
    return found


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing of the machine's own Docker, its proxies included, has a say."""
    return {"PATH": SEARCH, "HOME": str(home), "DOCKER_CONFIG": str(home), "DOCKER_BUILDKIT": "0"}


@contextmanager
def running(
    command: Sequence[object], *, home: Path, log: Path, answers: Callable[[], bool], exit_code: int = 0
) -> Iterator[None]:
    """Run a server from its first answer until SIGTERM has ended it; what it prints is added to `log`.

    Its mounts are in a name space of its own, and the kernel ends it if this process dies: whatever happens, nothing
    stays behind.

    Args:
        command: the program and its arguments.
        home: its home directory.
        log: a file.
        answers: whether it answers by now.
        exit_code: what it must end with, by itself or at SIGTERM.
    """
    wrapped = [program("setpriv"), "--pdeathsig", "TERM", program("unshare"), "--mount", *map(str, command)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            wrapped, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(home)
        )
    try:
        _wait_for(process, answers, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_S)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == exit_code, f"ended with {process.returncode}\n{tail(log)}"


def _wait_for(process: subprocess.Popen[bytes], answers: Callable[[], bool], log: Path) -> None:
    for _ in range(int(DEADLINE_S / _POLL_S)):
        if answers():
            return
        try:
            process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"{process.args!r} does not answer\n{tail(log)}")


def tail(log: Path) -> str:
    """Return the last lines of a log, shortened, without the routes that a daemon lists when it starts."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([line[:240] for line in lines if "Registering" not in line][-40:])
