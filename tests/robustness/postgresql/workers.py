"""Processes that write to a store on a server, and say what was acknowledged."""

from __future__ import annotations

import subprocess
import sys

ADDER = """
import signal, sys, time
from layerstore import SQLMetadataStore, StoreError, V2Metadata, V2MetadataService
url, first, layers, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
store = SQLMetadataStore(url)
v2 = V2MetadataService(store)
end = time.monotonic() + seconds
number = first
print("ready", flush=True)
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
while not stopped and time.monotonic() < end:
    number += 1
    digest, diff_id = f"sha256:{number:064x}", f"sha256:{number % layers:064x}"
    try:
        v2.add(diff_id, V2Metadata(digest, "localhost:5000/a"))
    except StoreError:
        time.sleep(0.02)
        continue
    print(number, flush=True)
"""


def adder(url: str, first: int, *, layers: int, seconds: float) -> subprocess.Popen[str]:
    """Start a process that adds associations until it is killed or its time is up; each that is kept is a line."""
    return subprocess.Popen(
        [sys.executable, "-c", ADDER, url, str(first), str(layers), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def acknowledged(process: subprocess.Popen[str]) -> list[int]:
    """Wait for the end of a process; return the numbers that it was told to be kept."""
    assert process.stdout is not None
    with process, process.stdout:
        lines = process.stdout.read().split("\n")
    # A line may be cut off in its middle, when it is killed.
    return [int(line) for line in lines[:-1] if line != "ready"]
