"""Forks in one thread while others open, write, read and close: no crash, no hang, nothing lost."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from tests.conftest import OpenSQL
from tests.support.counting import Counted

ROOT = Path(__file__).resolve().parents[3]
LOGGING_IMPORTED_BESIDE_A_FORK = re.compile(
    r"Exception ignored in: <function _releaseLock.*?\nRuntimeError: cannot release un-acquired lock\n", re.DOTALL
)
"""What the standard library says where a thread imports it while another one forks; SQLAlchemy needs it."""
MODES = ["open", "add", "memory", "transaction", "read", "engine", "load"]
PROGRAM = """
import os, random, sys, threading, time
from layerstore import SQLMetadataStore, StoreError, V2Metadata, V2MetadataService

path, mode, forks = sys.argv[1], sys.argv[2], int(sys.argv[3])
memory = SQLMetadataStore(":memory:")
shared = SQLMetadataStore(path)
stop = False
written = [0, 0]
failures = []

def work(number):
    rounds = 0
    while not stop:
        rounds += 1
        key = f"{number}-{rounds}"
        try:
            if mode == "open":
                with SQLMetadataStore(f"{path}-{number}") as store:
                    store.set("n", "k", b"v")
                with SQLMetadataStore(path) as store:
                    store.set("n", key, b"v")
            elif mode == "add":
                blob = V2Metadata(f"sha256:{number}" + "%063x" % rounds)
                V2MetadataService(shared).add("sha256:" + "%064x" % number, blob)
                shared.set("n", key, b"v")
            elif mode == "memory":
                memory.set_many([("n", f"{key}-{at}", b"v") for at in range(30)])
                shared.set("n", key, b"v")
            elif mode == "load":
                shared.set_many([("n", f"{key}-{at}", b"v") for at in range(1100)])
                shared.set("n", key, b"v")
            elif mode == "transaction":
                with shared.transaction():
                    shared.set("n", key, b"v")
            elif mode == "read":
                for at, _ in enumerate(shared.entries()):
                    if at > 20:
                        break
                shared.get_many("n", [key])
                shared.set("n", key, b"v")
            elif mode == "engine":
                with shared.engine.connect() as connection:
                    connection.exec_driver_sql("SELECT count(*) FROM metadata").scalar()
                shared.set("n", key, b"v")
            written[number] = rounds
            time.sleep(0.001)  # SQLite's writers do not take turns: a child would wait for seconds
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
            return

threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
for thread in threads: thread.start()
outcomes = {}
for turn in range(forks):
    time.sleep(random.random() * 0.004)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if turn % 20 == 1:
                shared.set("child", str(turn), b"v")
                code = 2
            elif turn % 20 == 2:
                with SQLMetadataStore(f"{path}-child") as store:
                    store.set("n", "k", b"v")
                code = 0
            elif turn % 20 == 3:
                sys.exit(0)  # with all that an interpreter does at its end
            else:
                code = 0
        except StoreError as error:
            code = 3 if "forked while" in str(error) else 4
        except SystemExit:
            raise
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            if turn % 20 != 3:
                os._exit(code)
    deadline = time.monotonic() + 60
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            code = "hung"
            break
        time.sleep(0.0005)
    outcomes[code] = outcomes.get(code, 0) + 1
stop = True
for thread in threads: thread.join()
kept = {key for _, key, _ in shared.entries("n")}
lost = [f"{number}-{at}" for number in range(2) for at in range(1, written[number] + 1) if f"{number}-{at}" not in kept]
children = sum(1 for _ in shared.entries("child"))
print(outcomes, "children wrote", children, "failures", failures, "lost", len(lost))
assert children == outcomes.get(2, 0), "a child's acknowledged write"
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", MODES)
def test_forks_beside_threads_that_use_stores(
    tmp_path: Path, open_sql: OpenSQL, counted: Counted, mode: str, pytestconfig: pytest.Config
):
    forks = -(-pytestconfig.getoption("--forks") // len(MODES))
    path = tmp_path / "layers.db"
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, str(path), mode, str(forks)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    counted("forks", forks)

    assert (done.returncode, LOGGING_IMPORTED_BESIDE_A_FORK.sub("", done.stderr)) == (0, "")
    assert "failures [] lost 0" in done.stdout
    codes = {int(code): int(number) for code, number in re.findall(r"(\d+): (\d+)", done.stdout)}
    assert sum(codes.values()) == forks
    assert set(codes) <= {0, 2, 3}
    store: SQLMetadataStore = open_sql(path)
    store.set("n", "afterwards", b"")
