"""`plan` is what a real daemon then does, for every layer: what it prints, and what the registries see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from layerstore import (
    AuthConfig,
    FSMetadataStore,
    PushPlan,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    compute_hmac_key,
    docker_credentials,
    find_image,
    import_directory,
    layer_sizes,
    plan_push,
)
from layerstore.records import decode_list, encode_list
from tests.engines.conftest import Trial
from tests.engines.host import Host, docker_archive, layer
from tests.engines.registry import Registry, registry_at

SIZES = [3_000, 200_000, 11 << 20]
"""A layer of each class that Docker's push tells apart."""

EXISTS, MOUNT, UPLOAD = "exists", "mount", "upload"


class Pushes:
    """A host whose every push is foretold, and two registries."""

    def __init__(self, trial: Trial, host: Host, other: Registry) -> None:
        self.trial = trial
        self.host = host
        self.other = other
        self.app = trial.name("one/app")
        self.layers = host.make(self.app, SIZES)

    def push(self, target: str, registry: Registry | None = None, *, image: str | None = None) -> list[str]:
        """Plan a push and make it; the two must agree. Return the action for each layer, and where it mounts from."""
        registry = registry or self.trial.registry
        name = f"{registry.address}/{target}"
        planned = self._plan(image or self.app, name)
        registry.uploaded.pop(target, None)
        diff_ids = self.host.layers(image or self.app)
        printed = dict(zip(diff_ids, self.host.push(image or self.app, name), strict=True))

        assert {layer.diff_id: layer.status for layer in planned.layers} == printed
        sources = [(layer.source_repository or "").removeprefix(f"{registry.address}/") for layer in planned.layers]
        mounted = {
            layer.digest: source.partition(":")[0]
            for layer, source in zip(planned.layers, sources, strict=True)
            if layer.action == MOUNT
        }
        assert {digest: registry.mounted.get(target, {}).get(str(digest)) for digest in mounted} == mounted
        there = registry.image(target)
        assert len(set(registry.uploaded.get(target, {})) - {there.config}) == planned.total(UPLOAD)[0]
        assert {str(layer.digest) for layer in planned.layers if layer.digest} <= set(there.layers)
        return [f"{layer.action} {source}".strip() for layer, source in zip(planned.layers, sources, strict=True)]

    @contextmanager
    def metadata(self) -> Iterator[V2MetadataService]:
        """Change what the daemon knows; it reads its files at each push."""
        with FSMetadataStore(self.host.distribution) as files:
            yield V2MetadataService(files)

    def _plan(self, image: str, target: str) -> PushPlan:
        """Plan by what a store took in from the daemon, with the credentials that the client has."""
        found = find_image(self.host.data_root, image)
        key = compute_hmac_key(docker_credentials(target.partition("/")[0], config=self.host.client_configuration))
        with SQLMetadataStore(":memory:") as store:
            import_directory(store, self.host.distribution)
            return plan_push(store, list(zip(found.diff_ids, layer_sizes(found), strict=True)), target, hmac_key=key)


@pytest.fixture(scope="module")
def pushes(trial: Trial) -> Iterator[Pushes]:
    host = trial.host("plan")
    host.log_out()
    sockets = trial.sockets / "other"
    sockets.mkdir()
    with registry_at(trial.home / "other", sockets) as other, host.running():
        yield Pushes(trial, host, other)


@pytest.fixture(autouse=True)
def as_it_was(pushes: Pushes, tmp_path: Path) -> Iterator[None]:
    """Each push begins with what the daemon knew before the others."""
    pushes.host.distribution.mkdir(exist_ok=True)
    shutil.copytree(pushes.host.distribution, tmp_path / "before")
    yield
    pushes.host.log_out()
    shutil.rmtree(pushes.host.distribution)
    shutil.copytree(tmp_path / "before", pushes.host.distribution)


def test_a_first_push_uploads_a_second_one_finds_and_one_elsewhere_mounts(pushes: Pushes):
    assert pushes.push("one/app") == [UPLOAD] * 3
    assert pushes.push("one/app") == [EXISTS] * 3
    assert pushes.push("two/app") == [f"{MOUNT} one/app"] * 3
    assert pushes.push("two/app") == [EXISTS] * 3
    assert pushes.push("one/more") == [f"{MOUNT} one/app"] * 3


def test_another_registry_gets_everything_once(pushes: Pushes):
    pushes.push("both/app")
    assert pushes.push("both/app", pushes.other) == [UPLOAD] * 3
    assert pushes.push("both/new", pushes.other) == [f"{MOUNT} both/app"] * 3
    assert pushes.push("both/app") == [EXISTS] * 3


def test_a_layer_whose_list_is_gone_or_torn_is_uploaded(pushes: Pushes):
    pushes.push("gone/app")
    pushes.host.list_file(pushes.layers[0]).write_bytes(b'[{"Digest":')
    pushes.host.list_file(pushes.layers[1]).unlink()
    assert pushes.push("gone/new") == [UPLOAD, UPLOAD, f"{MOUNT} gone/app"]


def test_what_50_newer_associations_have_driven_out_is_uploaded(pushes: Pushes):
    pushes.push("evicted/app")
    with pushes.metadata() as v2:
        for number in range(50):
            digest = f"sha256:{number:064x}"
            v2.tag_and_add(pushes.layers[1], None, V2Metadata(digest, f"registry.example/app{number}"))
    assert pushes.push("evicted/app") == [EXISTS, UPLOAD, EXISTS]


def test_what_was_pushed_with_the_same_credentials_comes_first(pushes: Pushes):
    registry = pushes.trial.registry.address
    pushes.host.log_in(registry, "anna", "s&cret")
    assert pushes.push("hers/app") == [UPLOAD] * 3
    pushes.host.log_out()
    assert pushes.push("open/app") == [f"{MOUNT} hers/app"] * 3
    assert pushes.push("open/new") == [f"{MOUNT} open/app"] * 3
    pushes.host.log_in(registry, "anna", "s&cret")
    assert pushes.push("her/new") == [f"{MOUNT} hers/app"] * 3
    pushes.host.log_in(registry, "otto", "other")
    assert pushes.push("his/new") == [f"{MOUNT} her/new"] * 3


def test_what_the_target_has_is_sent_again_when_another_digest_is_looked_for_first(pushes: Pushes):
    """Only a large layer is worth a second look."""
    pushes.push("again/app")
    registry = pushes.trial.registry.address
    pushes.host.log_in(registry, "otto", "other")
    key = compute_hmac_key(AuthConfig(username="otto", password="other"))
    with pushes.metadata() as v2:
        for layer in pushes.layers:
            v2.tag_and_add(layer, key, V2Metadata(f"sha256:{1:064x}", "registry.example/app"))
    assert pushes.push("again/app") == [UPLOAD, UPLOAD, EXISTS]


def test_a_digest_that_is_none_takes_a_place_among_the_mounts(pushes: Pushes):
    """A small layer is worth one; the others mount from the next, whose tag counts for nothing."""
    pushes.push("odd/app")
    registry = pushes.trial.registry.address
    for diff_id in pushes.layers:
        file = pushes.host.list_file(diff_id)
        (entry,) = decode_list(file.read_bytes())
        tagged = V2Metadata(entry.digest, f"{registry}/odd/app:latest")
        file.write_bytes(encode_list([tagged, V2Metadata("sha256:odd", f"{registry}/odd/other")]))
    assert pushes.push("odd/new") == [UPLOAD, f"{MOUNT} odd/app:latest", f"{MOUNT} odd/app:latest"]


def test_the_command_plans_the_same_by_the_daemons_files_and_by_a_store(pushes: Pushes, tmp_path: Path):
    pushes.push("command/app")
    pushes.host.list_file(pushes.layers[1]).unlink()
    pushes.trial.layerstore(tmp_path / "layers.db", "import", pushes.host.data_root)
    line: list[object] = [pushes.app, pushes.trial.name("command/new"), "--data-root", pushes.host.data_root]
    line += ["--config", pushes.host.client_configuration]
    reports = [
        pushes.trial.layerstore(tmp_path / "none.db", "plan", *line, "--as-daemon"),
        pushes.trial.layerstore(tmp_path / "layers.db", "plan", *line),
    ]
    actions = pushes.push("command/new")
    assert actions == [f"{MOUNT} command/app", UPLOAD, f"{MOUNT} command/app"]
    for report in reports:
        assert [layer["action"] for layer in report["layers"]] == [action.split()[0] for action in actions]
        assert [layer["size"] for layer in report["layers"]] == SIZES
        assert report["totals"] == {
            EXISTS: {"layers": 0, "bytes": 0},
            MOUNT: {"layers": 2, "bytes": SIZES[0] + SIZES[2]},
            UPLOAD: {"layers": 1, "bytes": SIZES[1]},
        }


def test_an_image_with_a_layer_twice_and_an_empty_one_pushes_each_once(pushes: Pushes, tmp_path: Path):
    empty = bytes(1024)
    image, archive = pushes.trial.name("twice/app") + ":latest", tmp_path / "image.tar"
    docker_archive(archive, image, [empty, layer({"file": b""}), empty])
    pushes.host.docker("load", "--input", archive)
    assert pushes.push("twice/app", image=image) == [UPLOAD] * 2
    assert pushes.push("twice/new", image=image) == [f"{MOUNT} twice/app"] * 2


def test_on_linux_a_layer_that_is_marked_as_foreign_is_pushed_as_any_other(trial: Trial):
    """Only on Windows does the daemon skip it, so `plan` does not look at the mark."""
    host = trial.host("foreign")
    image = trial.name("foreign/app")
    with host.running():
        (diff_id,) = host.make(image, [1_000])
    descriptor = {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 1}
    descriptor |= {"digest": f"sha256:{1:064x}", "urls": ["https://registry.example/layer"]}
    folder = host.data_root / "image/vfs/layerdb" / diff_id.replace(":", "/")
    (folder / "descriptor.json").write_text(json.dumps(descriptor))
    with host.running():
        assert host.push(image) == ["Pushed"]
