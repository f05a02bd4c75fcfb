"""Four builders over one server, each a process with a Docker directory of its own, run what docs/fleet.md says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from layerstore import FSMetadataStore, SQLMetadataStore, V2MetadataService, mount_candidates, verify
from tests.support.strategies import sha256

BUILDER = """
import os, subprocess, sys
from pathlib import Path
from layerstore import FSMetadataStore, V2Metadata, V2MetadataService

root, number, jobs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
metadata = root / "image" / "overlay2" / "distribution"

def layerstore(*arguments):
    subprocess.run([sys.executable, "-m", "layerstore", *arguments], check=True, stdout=subprocess.DEVNULL)

for job in range(jobs):
    if job:
        layerstore("export", "--data-root", str(root), "--driver", "overlay2")
    # What Docker writes when it pushes: a layer that all builders have, and one that is this job's alone.
    with FSMetadataStore(metadata) as store:
        v2 = V2MetadataService(store)
        for layer, blob in ((1, 1000), (100 * number + job, 10_000 + 100 * number + job)):
            v2.add(f"sha256:{layer:064x}", V2Metadata(f"sha256:{blob:064x}", f"localhost:5000/team{number}/app{job}"))
    layerstore("import", str(root))
"""
BUILDERS, JOBS = range(1, 5), 3


def test_each_builder_mounts_what_any_other_has_pushed(postgresql_url: str, tmp_path: Path):
    environment = {**os.environ, "LAYERSTORE_DB": postgresql_url}
    roots = {number: tmp_path / f"builder{number}" for number in BUILDERS}
    for root in roots.values():
        (root / "image" / "overlay2" / "distribution").mkdir(parents=True)
    running = [
        subprocess.Popen([sys.executable, "-c", BUILDER, str(root), str(number), str(JOBS)], env=environment)
        for number, root in roots.items()
    ]
    assert [one.wait(120) for one in running] == [0] * len(BUILDERS)

    pushed = {
        sha256(100 * number + job): f"localhost:5000/team{number}/app{job}"
        for number in BUILDERS
        for job in range(JOBS)
    }
    with SQLMetadataStore(postgresql_url, read_only=True) as store:
        assert verify(store).ok
        assert {diff_id: named(V2MetadataService(store), diff_id) for diff_id in pushed} == {
            diff_id: [repository] for diff_id, repository in pushed.items()
        }
        assert sorted(named(V2MetadataService(store), sha256(1))) == sorted(pushed.values())
    for root in roots.values():
        layerstore = [sys.executable, "-m", "layerstore"]
        subprocess.run(
            [*layerstore, "export", "--data-root", root, "--driver", "overlay2"],
            env=environment,
            check=True,
            capture_output=True,
        )
        with FSMetadataStore(root / "image" / "overlay2" / "distribution") as directory:
            docker = V2MetadataService(directory)
            assert {diff_id: named(docker, diff_id) for diff_id in pushed} == {
                diff_id: [repository] for diff_id, repository in pushed.items()
            }


def named(v2: V2MetadataService, diff_id: str) -> list[str]:
    """Return the repositories from which a push of this layer would mount it."""
    found = mount_candidates(v2.get_metadata(diff_id), "localhost:5000/newcomer/app")
    return [one.source_repository for one in found]
