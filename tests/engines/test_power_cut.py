"""What a power cut's damage does to a real daemon, and what it does after `layerstore verify --repair`.

Docker syncs a file before it renames it, but never the directory, and an `add` is two files; so what is left may be an
empty file, a torn one, one of the two, or a `.tmp-` file. Seen with the daemons of 20.10.24, 26.1.5 and 28.5.2 alike, a
layer each, the table `DAMAGE` below:

- No damage keeps it from starting, and none is in its log.
- A push to another repository mounts a layer if its list can be read; which layer the blob is does not matter for that.
  A list that is empty, torn or gone is taken for "never pushed": the layer is uploaded, and the list begins anew.
- A pull finds a layer that is there only if the blob's mapping can be read. If not, it downloads that layer and every
  one above it. The list does not matter.
- When the registry has lost the blob, the push means to remove the association from the list, and reads the mapping for
  that. With an **empty or zeroed mapping the whole daemon dies**: `panic: no ':' separator in digest ""`; and again at
  each such push after it is started again. Without a mapping, the association stays, and every push tries it again.
- A `.tmp-` file does nothing, and nothing removes it.

Afterwards: `verify --repair` derives the mapping of each blob that a list still names, so that what can be mounted is
also found, and forgotten when it is gone; the daemon dies no more. Where the list is lost, the repositories were
nowhere else: that layer is uploaded once more, unless a store took them in before the power cut. Where both are lost,
it is downloaded once more, too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.engines.conftest import Trial
from tests.engines.host import Host


class Damage(NamedTuple):
    """What a power cut left of a layer's two files, and what the daemon then does.

    Attributes:
        name: what is wrong.
        inflict: makes it so, given the list's file and the mapping's.
        mounts: whether a push to another repository mounts the layer.
        finds: whether a pull finds the layer.
        dies: whether the daemon dies when the blob that it wants to mount is gone.
        forgets: whether it otherwise forgets where the blob was: `None` where it dies, or knew nothing.
        again: whether a pull finds the layer after `verify --repair`. What is mounted does not change.
    """

    name: str
    inflict: Callable[[Path, Path], object]
    mounts: bool
    finds: bool
    dies: bool
    forgets: bool | None
    again: bool


def temporary_files(list_file: Path, mapping_file: Path) -> None:
    for file in (list_file, mapping_file):
        file.with_name(f".tmp-{file.name}271828182").write_bytes(b"")


DAMAGE = [
    #      what is wrong                                                           mounts finds  dies   forgets again
    Damage("nothing", lambda _list, _mapping: None,                                True,  True,  False, True,  True),
    Damage("temporary files", temporary_files,                                     True,  True,  False, True,  True),
    Damage("list empty", lambda list_, _: list_.write_bytes(b""),                  False, True,  False, None,  True),
    Damage("list torn", lambda list_, _: list_.write_bytes(b'[{"Digest":"s'),      False, True,  False, None,  True),
    Damage("list gone", lambda list_, _: list_.unlink(),                           False, True,  False, None,  True),
    Damage("mapping empty", lambda _, mapping: mapping.write_bytes(b""),           True,  False, True,  None,  True),
    Damage("mapping zeroed", lambda _, mapping: mapping.write_bytes(bytes(71)),    True,  False, True,  None,  True),
    Damage("mapping gone", lambda _, mapping: mapping.unlink(),                    True,  False, False, False, True),
    Damage("both empty", lambda *files: [file.write_bytes(b"") for file in files], False, False, False, None,  False),
]  # fmt: skip


class Stricken(NamedTuple):
    """A stopped host that has pushed an image with a layer for each damage, and one layer more on top.

    Attributes:
        host: the host.
        layers: DiffIDs, lowest first.
        blobs: their blobs' digests.
        whole: its metadata directory as the daemon left it.
        store: what layerstore had taken in before the power cut.
    """

    host: Host
    layers: list[str]
    blobs: list[str]
    whole: Path
    store: Path

    def strike(self, damages: list[Damage]) -> None:
        """Bring the directory back, then damage it."""
        self.host.forget()
        shutil.copytree(self.whole, self.host.distribution, dirs_exist_ok=True)
        for number, damage in enumerate(DAMAGE):
            if damage in damages:
                damage.inflict(self.host.list_file(self.layers[number]), self.host.mapping_file(self.blobs[number]))

    def remembers(self, number: int, repository: str) -> bool:
        """Tell whether a layer's list names a repository."""
        return any(
            of.diff_id == self.layers[number] and of.source_repository.endswith(repository)
            for of in self.host.associations()
        )


@pytest.fixture(scope="module")
def stricken(trial: Trial) -> Stricken:
    host = trial.host("a")
    base, app = trial.name("one/base"), trial.name("one/app")
    with host.running():
        host.make(base, [2_000] * len(DAMAGE))
        layers = host.build(app, 1_000, base=base)
        host.push(base)
        host.push(app)
    store = trial.home / "before.db"
    trial.layerstore(store, "import", host.data_root)
    whole = trial.home / "whole"
    shutil.copytree(host.distribution, whole)
    return Stricken(host, layers, trial.registry.image("one/app").layers, whole, store)


def mounted_or_pushed(mounts: list[bool]) -> list[str]:
    """Return what a push prints of the layers, of which the top one always is mounted."""
    return ["Mounted from one/app" if mounted else "Pushed" for mounted in [*mounts, True]]


def found_or_pulled(finds: list[bool]) -> list[str]:
    """Return what a pull prints of the layers: all above the first one that is not found are downloaded."""
    count = [*finds, False].index(False)
    return ["Already exists"] * count + ["Pull complete"] * (len(finds) + 1 - count)


def test_what_a_push_does(trial: Trial, stricken: Stricken):
    """The column `mounts`, all damages at once; the daemon says nothing of them, and writes whole lists over them."""
    stricken.strike(DAMAGE)
    with stricken.host.running():
        statuses = stricken.host.push(trial.name("one/app"), trial.name("push/app"))
    assert statuses == mounted_or_pushed([damage.mounts for damage in DAMAGE])
    log = stricken.host.log.read_text(errors="replace")
    assert not re.findall("unexpected end of JSON|invalid character|v2metadata-by-diffid|diffid-by-digest", log)
    assert all(stricken.remembers(number, "push/app") for number in range(len(stricken.layers)))
    assert [stricken.remembers(number, "one/app") for number in range(len(DAMAGE))] == [of.mounts for of in DAMAGE]


def test_what_a_pull_does(trial: Trial, stricken: Stricken):
    """The column `finds`, one damage after the other: the daemon reads the files each time that it needs them."""
    with stricken.host.running():
        for number, damage in enumerate(DAMAGE):
            stricken.strike([damage])
            stricken.host.remove(trial.name("one/app"))
            finds = [of is not damage or of.finds for of in DAMAGE]
            pulled = stricken.host.pull(trial.name("one/app"), stricken.blobs)
            assert pulled == found_or_pulled(finds), damage.name
            assert stricken.host.mapping_file(stricken.blobs[number]).read_text() == stricken.layers[number]


def test_what_a_push_does_when_the_blob_is_gone(trial: Trial, stricken: Stricken):
    """The column `forgets`: without a mapping, a dead association stays."""
    stricken.strike([damage for damage in DAMAGE if not damage.dies])
    with trial.registry.without("one"), stricken.host.running():
        statuses = stricken.host.push(trial.name("one/app"), trial.name("dead/app"))
    assert statuses == ["Pushed"] * len(stricken.layers)
    for number, damage in enumerate(DAMAGE):
        if damage.forgets is not None:
            assert stricken.remembers(number, "one/app") != damage.forgets, damage.name


@pytest.mark.parametrize("damage", [damage for damage in DAMAGE if damage.dies], ids=lambda damage: damage.name)
def test_the_daemon_dies_of_a_mapping_without_a_digest(trial: Trial, stricken: Stricken, damage: Damage):
    """The column `dies`: one push takes the whole daemon with it, and a restart does not help."""

    def panics() -> int:
        return stricken.host.log.read_text(errors="replace").count("panic: no ':' separator in digest")

    stricken.strike([damage])
    before = panics()
    for attempt, target in enumerate(["dying/app", "one/app"], 1):
        with trial.registry.without("one"), stricken.host.running(exit_code=2):
            stricken.host.docker("tag", trial.name("one/app"), trial.name(target))
            code, printed = stricken.host.ask("push", trial.name(target))
        assert (code, "EOF" in printed) == (1, True), printed
        assert panics() == before + attempt


def repair_the_directory(trial: Trial, stricken: Stricken) -> None:
    """`verify --repair DIRECTORY`"""
    report = trial.layerstore(trial.home / "none.db", "verify", "--repair", stricken.host.distribution)
    assert {found["kind"]: found["repaired"] for found in report["findings"]} == {
        "unreadable": 6,
        "unmapped": 3,
        "not-listed": 0,
        "temporary": 0,
    }


def repair_a_store(trial: Trial, stricken: Stricken) -> None:
    """`import`, `verify --repair`, `export --delete`"""
    store = trial.home / "after.db"
    # Six files cannot be what they should be: the import says so, and goes on.
    assert len(trial.layerstore(store, "import", stricken.host.data_root, exit_code=1)["quarantined"]) == 6
    trial.layerstore(store, "verify", "--repair")
    trial.layerstore(store, "export", "--on-conflict", "replace", "--delete", stricken.host.distribution)


def merge_with_what_was_known(trial: Trial, stricken: Stricken) -> None:
    """`import` into a store that knew the host before, `verify --repair`, `export`"""
    store = trial.home / "merged.db"
    shutil.copy(stricken.store, store)
    trial.layerstore(store, "import", stricken.host.data_root, exit_code=1)
    trial.layerstore(store, "verify", "--repair")
    trial.layerstore(store, "export", stricken.host.distribution)


MOUNTED = [damage.mounts for damage in DAMAGE]
FOUND = [damage.again for damage in DAMAGE]
ALL = [True] * len(DAMAGE)


@pytest.mark.parametrize(
    ("repair", "mounts", "finds"),
    [(repair_the_directory, MOUNTED, FOUND), (repair_a_store, MOUNTED, FOUND), (merge_with_what_was_known, ALL, ALL)],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_after_a_repair(
    trial: Trial,
    stricken: Stricken,
    repair: Callable[[Trial, Stricken], None],
    mounts: list[bool],
    finds: list[bool],
):
    """Every layer with a list mounts, every blob with a list or mapping is found, dead associations go, nothing dies.

    With a store that knew the host before, that is every layer.
    """
    stricken.strike(DAMAGE)
    repair(trial, stricken)
    findings = trial.layerstore(trial.home / "none.db", "verify", stricken.host.distribution)["findings"]
    assert {found["severity"] for found in findings} == {"info"}
    shutil.copytree(stricken.host.distribution, repaired := trial.home / repair.__name__)
    app = trial.name("one/app")
    with stricken.host.running():
        assert stricken.host.push(app, trial.name(f"{repair.__name__}/app")) == mounted_or_pushed(mounts)

        stricken.host.forget()
        shutil.copytree(repaired, stricken.host.distribution, dirs_exist_ok=True)
        stricken.host.remove(app)
        assert stricken.host.pull(app, stricken.blobs) == found_or_pulled(finds)

        stricken.host.forget()
        shutil.copytree(repaired, stricken.host.distribution, dirs_exist_ok=True)
        with trial.registry.without("one"):
            pushed = stricken.host.push(app, trial.name(f"{repair.__name__}/dead"))
    assert pushed == ["Pushed"] * len(stricken.layers)
    assert not any(stricken.remembers(number, "one/app") for number in range(len(stricken.layers)))
