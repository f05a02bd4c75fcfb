"""`examples/pusher.py` against a real registry: what it mounts, what it sends, what it learns and what it forgets."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.pusher import Layout, Pusher
from examples.pusher import Registry as Client
from layerstore import AuthConfig, SQLMetadataStore, V2MetadataService, verify
from layerstore.repository import parse_normalized
from tests.engines.conftest import Trial
from tests.engines.registry import Registry, registry_at
from tests.push.layouts import Written, layer, write_layout
from tests.structure.source import ROOT

SIZES = [3_000, 200_000, 11 << 20]


@pytest.fixture(scope="module")
def layers() -> list[bytes]:
    return [layer(f"file{number}", size) for number, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def layout(layers: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_layout(tmp_path_factory.mktemp("layouts") / "gzip", layers)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SQLMetadataStore]:
    with SQLMetadataStore(tmp_path / "layers.db") as store:
        yield store
        assert {found.severity for found in verify(store).findings} <= {"info"}


def push(
    registry: Registry,
    store: SQLMetadataStore,
    layout: Written,
    repository: str,
    *,
    credentials: AuthConfig | None = None,
    preserve_digests: bool = False,
) -> tuple[int, str]:
    """Push; return how many bytes of layers the pusher says it has sent, and the digest of the manifest."""
    target = parse_normalized(f"{registry.address}/{repository}")
    credentials = credentials or AuthConfig()
    client = Client(target, credentials)
    try:
        pusher = Pusher(client, store, target, credentials, preserve_digests)
        manifest = pusher.push(Layout(layout.path), "latest")
        return pusher.uploaded, manifest
    finally:
        client.close()


def test_the_second_push_to_another_repository_sends_no_byte_of_a_layer(
    trial: Trial, memory: SQLMetadataStore, layout: Written
):
    """Measured at the registry, which has the manifest as it is in the layout."""
    registry = trial.registry
    assert push(registry, memory, layout, "first/app") == (sum(layout.sizes), layout.manifest)
    assert registry.layer_bytes("first/app") == layout.sizes
    assert push(registry, memory, layout, "second/app") == (0, layout.manifest)
    assert registry.layer_bytes("second/app") == [0, 0, 0]
    assert registry.mounted["second/app"] == dict.fromkeys(layout.digests, "first/app")
    assert list(registry.uploaded["second/app"]) == [registry.image("second/app").config]

    known = V2MetadataService(memory)
    for diff_id, digest in zip(layout.diff_ids, layout.digests, strict=True):
        assert [(entry.digest, entry.source_repository) for entry in known.get_metadata(diff_id)] == [
            (digest, trial.name("first/app")),
            (digest, trial.name("second/app")),
        ]


def test_without_the_store_it_sends_every_layer(trial: Trial, layout: Written, tmp_path: Path):
    """The control: the same layers, the same registry, nothing known."""
    for number in range(2):
        with SQLMetadataStore(tmp_path / f"{number}.db") as nothing:
            push(trial.registry, nothing, layout, f"control{number}/app")
    assert trial.registry.layer_bytes("control1/app") == layout.sizes


def test_a_push_to_the_same_repository_asks_and_sends_nothing(trial: Trial, memory: SQLMetadataStore, layout: Written):
    push(trial.registry, memory, layout, "same/app")
    trial.registry.uploaded["same/app"].clear()
    assert push(trial.registry, memory, layout, "same/app") == (0, layout.manifest)
    assert trial.registry.uploaded["same/app"] == {}
    assert "same/app" not in trial.registry.mounted


def test_a_mount_that_is_refused_is_forgotten_and_the_layer_is_sent(
    trial: Trial, memory: SQLMetadataStore, layout: Written
):
    registry = trial.registry
    push(registry, memory, layout, "lost/app")
    with registry.without("lost"):
        assert push(registry, memory, layout, "found/app") == (sum(layout.sizes), layout.manifest)
    assert registry.layer_bytes("found/app") == layout.sizes
    for diff_id in layout.diff_ids:
        known = V2MetadataService(memory).get_metadata(diff_id)
        assert [entry.source_repository for entry in known] == [trial.name("found/app")]


def test_what_the_target_has_lost_is_forgotten_and_sent_again(trial: Trial, memory: SQLMetadataStore, layout: Written):
    registry = trial.registry
    push(registry, memory, layout, "twice/app")
    registry.uploaded.clear()
    with registry.without("twice"):
        assert push(registry, memory, layout, "twice/app")[0] == sum(layout.sizes)
        assert registry.layer_bytes("twice/app") == layout.sizes
    for diff_id in layout.diff_ids:
        assert len(V2MetadataService(memory).get_metadata(diff_id)) == 1


def test_another_compression_of_the_layers_sends_nothing_unless_digests_are_kept(
    trial: Trial, memory: SQLMetadataStore, layers: list[bytes], layout: Written, tmp_path: Path
):
    """The layers that the registry has take their places in the manifest; a daemon pulls the image."""
    registry = trial.registry
    bare = write_layout(tmp_path / "bare", layers, compress=bytes, suffix="")
    push(registry, memory, layout, "gzip/app")
    sent, manifest = push(registry, memory, bare, "other/app")
    assert (sent, manifest != bare.manifest) == (0, True)
    assert registry.layer_bytes("other/app") == [0, 0, 0]
    assert registry.image("other/app").layers == layout.digests
    assert registry.image("other/app").sizes == layout.sizes

    assert push(registry, memory, bare, "kept/app", preserve_digests=True) == (sum(bare.sizes), bare.manifest)
    assert registry.image("kept/app").layers == bare.digests

    host = trial.host("puller")
    with host.running():
        host.docker("pull", trial.name("other/app"))
        assert host.layers(trial.name("other/app")) == layout.diff_ids


def test_bare_layers_stand_in_for_compressed_ones_under_their_own_media_type(
    trial: Trial, memory: SQLMetadataStore, layers: list[bytes], layout: Written, tmp_path: Path
):
    bare = write_layout(tmp_path / "bare", layers[:2], compress=bytes, suffix="")
    small = write_layout(tmp_path / "gzip", layers[:2], compress=lambda one: gzip.compress(one, 1))
    push(trial.registry, memory, bare, "bare/app")
    assert push(trial.registry, memory, small, "bare/new")[0] == 0
    assert trial.registry.image("bare/new").layers == bare.digests
    types = [one["mediaType"] for one in trial.registry.manifest("bare/new")["layers"]]
    assert types == ["application/vnd.oci.image.layer.v1.tar"] * 2


def test_a_digest_that_the_list_has_lost_is_still_looked_for(trial: Trial, memory: SQLMetadataStore, layout: Written):
    """Docker would send these layers again: 50 newer associations have driven out what it knew."""
    push(trial.registry, memory, layout, "evicted/app")
    for diff_id in layout.diff_ids[:2]:
        memory.delete("v2metadata-by-diffid", diff_id.replace(":", "/"))
    assert push(trial.registry, memory, layout, "evicted/app") == (0, layout.manifest)


USER, PASSWORD = "builder", "secret&more"
# bcrypt of the password, made once with a salt of letters.
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuubWDgb.9YNYAW9h1hNyyiv8RLr.sD7Ta\n"


@pytest.fixture(scope="module")
def guarded(trial: Trial) -> Iterator[Registry]:
    """A registry that asks for credentials."""
    sockets = trial.sockets / "guarded"
    sockets.mkdir()
    with registry_at(trial.home / "guarded", sockets, htpasswd=HTPASSWD) as registry:
        yield registry


def run(tmp_path: Path, layout: Written, target: str, password: str) -> subprocess.CompletedProcess[str]:
    """Run the example as docs/library.md says, with a configuration of Docker's client."""
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    registry = target.partition("/")[0]
    (tmp_path / "config.json").write_text(json.dumps({"auths": {f"http://{registry}/v2/": {"auth": auth}}}))
    line = [sys.executable, ROOT / "examples" / "pusher.py", layout.path, target]
    line += ["--db", tmp_path / "pushed.db", "--config", tmp_path]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)


def test_with_credentials_it_pushes_and_mounts_and_shows_none(guarded: Registry, layout: Written, tmp_path: Path):
    for repository, sent in (("private/app", sum(layout.sizes)), ("private/new", 0)):
        done = run(tmp_path, layout, f"{guarded.address}/{repository}:1.0", PASSWORD)
        assert (done.returncode, done.stdout) == (
            0,
            f"{guarded.address}/{repository}: {layout.manifest}, {sent} bytes of layers uploaded\n",
        )
        assert PASSWORD not in done.stderr
    assert guarded.mounted["private/new"] == dict.fromkeys(layout.digests, "private/app")
    key_of = {"private/app", "private/new"}
    with SQLMetadataStore(tmp_path / "pushed.db") as store:
        known = V2MetadataService(store).get_metadata(layout.diff_ids[0])
    assert {entry.source_repository.removeprefix(f"{guarded.address}/") for entry in known} == key_of
    assert all(entry.hmac for entry in known)


def test_with_wrong_credentials_it_says_where_it_was_refused(guarded: Registry, layout: Written, tmp_path: Path):
    done = run(tmp_path, layout, f"{guarded.address}/private/no", "wr0ng")
    assert (done.returncode, done.stdout) == (3, "")
    assert "401" in done.stderr
    assert "private/no" in done.stderr
    assert "wr0ng" not in done.stderr
