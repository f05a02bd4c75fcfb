"""A real daemon pushes while a store is exported into its directory without a pause: neither loses anything.

Each export rewrites every list, as the store has learned the same place anew each time. So a push meets an export at
every moment: before it reads, between its reading and its writing, and behind.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from layerstore import SQLMetadataStore, import_directory, verify
from tests.engines.conftest import Trial

PUSHES = 12
LAYERS = 6
KNOWN = "localhost:5000/known/elsewhere"

EXPORTS = """
import select, sys
from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService, export_directory

database, target, known, *pairs = sys.argv[1:]
merged = exports = 0
with SQLMetadataStore(database) as store:
    v2 = V2MetadataService(store)
    print("ready", flush=True)
    while not exports or not select.select([sys.stdin], [], [], 0)[0]:
        for diff_id, digest in zip(pairs[::2], pairs[1::2]):
            v2.add(diff_id, V2Metadata(digest, known))
        report = export_directory(store, target)
        assert (report.conflict_count, report.evicted) == (0, 0), report
        exports, merged = exports + 1, merged + report.merged
print(exports, merged)
"""


def test_pushes_while_exports_run_in_a_loop_lose_no_association(trial: Trial, tmp_path: Path):
    host = trial.host("live")
    app = trial.name("live/app")
    with host.running():
        layers = host.make(app, [1_000 + number for number in range(LAYERS)])
        host.push(app)
        blobs = trial.registry.image("live/app").layers
        with SQLMetadataStore(tmp_path / "layers.db") as store:
            import_directory(store, host.data_root)
        pairs = [word for pair in zip(layers, blobs, strict=True) for word in pair]
        command = [sys.executable, "-c", EXPORTS, tmp_path / "layers.db", host.distribution, KNOWN, *pairs]
        with subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as exporting:
            assert exporting.stdout is not None
            exporting.stdout.readline()
            for number in range(PUSHES):
                host.push(app, trial.name(f"live/app{number}"))
            said, failed = exporting.communicate("stop\n")
        assert exporting.returncode == 0, failed

    exports, merged = map(int, said.split())
    assert exports > PUSHES
    assert merged > LAYERS * PUSHES
    pushed = {trial.name(f"live/app{number}") for number in range(PUSHES)} | {app}
    found = host.associations()
    for diff_id, digest in zip(layers, blobs, strict=True):
        known = {one.source_repository for one in found if (one.diff_id, one.digest) == (diff_id, digest)}
        assert known - {KNOWN} == pushed
    assert set(zip(blobs, layers, strict=True)) <= host.mappings()
    assert {finding.severity for finding in verify(host.distribution).findings} <= {"info"}
    assert not list(host.distribution.parent.glob("*.quarantine"))

    # What the daemon's own reading and writing has put over the store's place, one more export brings back.
    trial.layerstore(tmp_path / "layers.db", "export", host.distribution)
    assert {one.diff_id for one in host.associations() if one.source_repository == KNOWN} == set(layers)
