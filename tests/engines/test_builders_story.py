"""A builder that has layers but knows nothing of them mounts what another one pushed, once it was told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import NamedTuple

import pytest

from layerstore import SQLMetadataStore, import_directory, verify
from layerstore.keys import V2_METADATA, Record
from layerstore.records import decode_list
from tests.engines.conftest import Trial
from tests.engines.host import Association, Host

SIZES = [3_000, 200_000, 11 << 20]


class Fleet(NamedTuple):
    """Builders that have one image in common.

    Attributes:
        first: pushed it to `first/app`.
        told: got it as a file, and what `first` knew as an export; pushed it to `told/app`.
        untold: got it as a file only; pushed it to `untold/app`.
        printed: what the pushes of the last two printed of each layer.
    """

    first: Host
    told: Host
    untold: Host
    printed: dict[str, list[str]]


def receive(host: Host, image: Path) -> Host:
    """Give a new builder an image as a file, and stop it again."""
    with host.running():
        host.docker("load", "--input", image)
    assert list(host.distribution.rglob("*")) == []
    return host


@pytest.fixture(scope="module")
def fleet(trial: Trial) -> Fleet:
    app, file = trial.name("first/app"), trial.home / "app.tar"
    first = trial.host("first")
    with first.running():
        first.make(app, SIZES)
        assert first.push(app) == ["Pushed"] * 3
        first.docker("save", "--output", file, app)

    told, untold = (receive(trial.host(name), file) for name in ("told", "untold"))
    trial.layerstore(trial.home / "fleet.db", "import", first.data_root)
    assert trial.layerstore(trial.home / "fleet.db", "export", told.distribution)["written"] == 6

    printed = {}
    for host, name in ((told, "told"), (untold, "untold")):
        with host.running():
            printed[name] = host.push(app, trial.name(f"{name}/app"))
            host.build(trial.name(f"{name}/own"), 2_000, base=app)
            host.push(trial.name(f"{name}/own"))
    return Fleet(first, told, untold, printed)


def test_the_builder_that_was_told_mounts_every_layer_and_uploads_none(trial: Trial, fleet: Fleet):
    """Measured at the registry: of the whole image, only the configuration is sent."""
    assert fleet.printed["told"] == ["Mounted from first/app"] * 3
    assert trial.registry.layer_bytes("told/app") == [0, 0, 0]
    image = trial.registry.image("told/app")
    assert trial.registry.mounted["told/app"] == dict.fromkeys(image.layers, "first/app")
    assert list(trial.registry.uploaded["told/app"]) == [image.config]


def test_the_builder_that_was_not_told_uploads_every_layer(trial: Trial, fleet: Fleet):
    """The control: the same image, the same registry, no export."""
    assert fleet.printed["untold"] == ["Pushed"] * 3
    image = trial.registry.image("untold/app")
    assert image == trial.registry.image("told/app")
    assert trial.registry.layer_bytes("untold/app") == image.sizes == trial.registry.layer_bytes("first/app")
    assert "untold/app" not in trial.registry.mounted


def merged(path: Path, hosts: Sequence[Host]) -> list[Record]:
    """Import hosts' data roots, one after the other, into a new store; return all that it has, times included."""
    with SQLMetadataStore(path) as store:
        for host in hosts:
            report = import_directory(store, host.data_root)
            assert (report.ok, report.evicted) == (True, 0)
        assert {found.severity for found in verify(store).findings} <= {"info"}
        return list(store._records())


def associations(records: list[Record]) -> set[Association]:
    return {
        Association(f"sha256:{record.key.removeprefix('sha256/')}", entry.digest, entry.source_repository, entry.hmac)
        for record in records
        if record.namespace == V2_METADATA
        for entry in decode_list(record.value)
    }


def test_two_real_directories_merge_to_the_same_store_in_both_orders(fleet: Fleet, tmp_path: Path):
    """Bytes and times. All know one image, each from other repositories, and two have one of their own."""
    for number, (left, right) in enumerate(combinations(fleet[:3], 2)):
        one = merged(tmp_path / f"{number}.db", [left, right])
        assert one == merged(tmp_path / f"{number}-other.db", [right, left])
        assert associations(one) == left.associations() | right.associations()
    # The last pair is no special case: each knows what the other does not.
    assert len(associations(one)) > max(len(left.associations()), len(right.associations()))


def test_three_real_directories_merge_to_the_same_associations_in_every_order(fleet: Fleet, tmp_path: Path):
    """The order inside a list may differ: a list has one time, not one for each entry."""
    stores = [merged(tmp_path / f"{number}.db", order) for number, order in enumerate(permutations(fleet[:3]))]
    everything = set().union(*(host.associations() for host in fleet[:3]))
    assert [associations(store) for store in stores] == [everything] * 6
    assert [[record[:2] for record in store] for store in stores] == [[record[:2] for record in stores[0]]] * 6
