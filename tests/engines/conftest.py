"""A registry and hosts for the trials of each module. The folder is skipped where a daemon cannot be started."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.host import Host
from tests.engines.processes import tail, why_not
from tests.engines.registry import Registry, registry_at


class Trial:
    """A registry, the hosts that push to it, and the command that works on what they leave."""

    def __init__(self, home: Path, sockets: Path, registry: Registry) -> None:
        self.home = home
        self.registry = registry
        self.hosts: list[Host] = []
        self.sockets = sockets

    def host(self, name: str, *, containerds_store: bool = False) -> Host:
        """Make a host; its daemon does not run yet."""
        self.hosts.append(Host(self.home / name, self.sockets, containerds_store=containerds_store))
        return self.hosts[-1]

    def name(self, repository: str) -> str:
        """Return an image's name in this registry."""
        return f"{self.registry.address}/{repository}"

    def layerstore(self, database: Path, command: str, *arguments: object, exit_code: int = 0) -> dict[str, Any]:
        """Run the command on a database of this trial; return its report."""
        line = [sys.executable, "-m", "layerstore", "--db", database, command, "--json", *arguments]
        done = subprocess.run([str(word) for word in line], capture_output=True, text=True, check=False)
        assert done.returncode == exit_code, done.stdout + done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def logs(self) -> Iterator[tuple[str, str]]:
        for host in self.hosts:
            yield f"dockerd of {host.log.parent.name}", tail(host.log)
        yield "registry", tail(self.home / "registry" / "registry.log")


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A registry, and any number of hosts. Every module, and every worker, has its own."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("trial")
    with tempfile.TemporaryDirectory(prefix="trial-", ignore_cleanup_errors=True) as sockets:
        with registry_at(home / "registry", Path(sockets)) as registry:
            trial = Trial(home, Path(sockets), registry)
            yield trial
        for host in trial.hosts:
            shutil.rmtree(host.data_root)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs with a failure."""
    report = yield
    trial = getattr(item, "funcargs", {}).get("trial")
    if report.failed and isinstance(trial, Trial):
        report.sections += trial.logs()
    return report
