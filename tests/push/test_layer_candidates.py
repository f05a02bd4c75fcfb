"""Candidates on a store: in one lookup, in Docker's order, each place and each omission with its reason."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import (
    AuthConfig,
    CorruptRecordError,
    FSMetadataStore,
    InvalidDigestError,
    InvalidRepositoryError,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    compute_hmac,
    compute_hmac_key,
    existence_candidates,
    known_layers,
    layer_candidates,
    mount_candidates,
    push_attempts,
)
from layerstore.push.layers import CHECK, MOUNT, KnownLayer, candidates_of
from layerstore.sql.sqlite.handles import Handle
from layerstore.store import Store
from tests.conftest import AnyStore
from tests.support.strategies import sha256

LAYER, OTHER, ABSENT = sha256(0xA), sha256(0xB), sha256(0xC)
KEY = compute_hmac_key(AuthConfig(username="user", password="secret"))
SMALL, MIDDLE, LARGE = 1_000, 1_000_000, 20_000_000
TARGET = "localhost:5000/team/app"


def fill(store: Store, entries: list[V2Metadata], layer: str = LAYER) -> V2MetadataService:
    v2 = V2MetadataService(store)
    for entry in entries:
        v2.add(layer, entry)
    return v2


def test_what_a_store_has_of_a_layer_is_its_list_and_the_digests_that_it_lost(store: AnyStore):
    fill(store, [V2Metadata(sha256(number), f"host.example/r{number}") for number in range(60)])
    fill(store, [V2Metadata(sha256(99), TARGET)], OTHER)

    known = known_layers(store, [LAYER, ABSENT, OTHER, LAYER])

    assert list(known) == [LAYER, ABSENT, OTHER]
    assert known[LAYER].entries == tuple(V2MetadataService(store).get_metadata(LAYER))
    lost = tuple(sha256(number) for number in range(10))
    assert known[LAYER].unlisted == (() if isinstance(store, FSMetadataStore) else lost)
    assert known[ABSENT] == KnownLayer(ABSENT)
    assert known[OTHER] == KnownLayer(OTHER, (V2Metadata(sha256(99), TARGET),))


def test_a_layer_without_a_list_is_known_by_its_digests(sql_store: SQLMetadataStore):
    sql_store.set("diffid-by-digest", sha256(1).replace(":", "/"), LAYER.encode())
    found = layer_candidates(sql_store, LAYER, TARGET)
    assert (found.steps, found.left_out) == ((), ())
    assert found.unlisted == (V2Metadata(sha256(1)),)


def test_lists_and_digests_come_in_one_statement(sqlite_store: SQLMetadataStore, monkeypatch: pytest.MonkeyPatch):
    fill(sqlite_store, [V2Metadata(sha256(1), TARGET)])
    statements = []
    execute = Handle.execute

    def counted(handle: Handle, statement: str, parameters: Sequence[object] = ()) -> list[object]:
        statements.append(statement)
        return execute(handle, statement, parameters)

    monkeypatch.setattr(Handle, "execute", counted)
    monkeypatch.setattr(sqlite_store, "get_many", None)
    monkeypatch.setattr(sqlite_store, "get", None)
    assert len(layer_candidates(sqlite_store, LAYER, TARGET).steps) == 1
    assert len(statements) == 1


def test_any_object_with_get_will_do(files: FSMetadataStore):
    class Bare:
        get, set, delete = files.get, files.set, files.delete

    fill(files, [V2Metadata(sha256(1), "localhost:5000/other")])
    assert [step.action for step in layer_candidates(Bare(), LAYER, TARGET).steps] == [CHECK, MOUNT]


def test_of_an_unknown_layer_there_is_nothing_to_ask(store: AnyStore):
    found = layer_candidates(store, ABSENT, "busybox")
    assert found.target_repository == "docker.io/library/busybox"
    assert (found.first_checks, found.mounts, found.last_checks, found.unlisted) == ((), (), (), ())
    assert (found.steps, found.left_out) == ((), ())


def test_a_list_that_cannot_be_read_is_a_corrupt_record(files: FSMetadataStore):
    files.set("v2metadata-by-diffid", LAYER.replace(":", "/"), b"[{")
    with pytest.raises(CorruptRecordError):
        layer_candidates(files, LAYER, TARGET)
    assert known_layers(files, [LAYER])[LAYER].unreadable


def test_bad_names_are_refused(store: AnyStore):
    with pytest.raises(InvalidDigestError):
        layer_candidates(store, "sha256:x", TARGET)
    with pytest.raises(InvalidRepositoryError):
        layer_candidates(store, LAYER, "Busybox")


# The situations of Docker's TestGetRepositoryMountCandidates and TestLayerAlreadyExists, with entries of our own: what
# is asked, in order, as (action, digest's number, repository).
HUB, HOST = "docker.io", "localhost:5000"


def entry(number: int, repository: str, key: bytes | None = None) -> V2Metadata:
    plain = V2Metadata(sha256(number), repository)
    return V2Metadata(plain.digest, repository, compute_hmac(key, plain))


OTHERS_KEY = b"sha256:other"
CASES = {
    "nothing is known": ("busybox", [], MIDDLE, []),
    "another registry is asked about and not mounted from": (
        "busybox",
        [entry(1, f"{HOST}/repo")],
        MIDDLE,
        [(CHECK, 1, f"{HOST}/repo")],
    ),
    "an official image is mounted from another one": (
        "busybox",
        [entry(1, f"{HUB}/library/alpine", OTHERS_KEY)],
        MIDDLE,
        [(CHECK, 1, f"{HUB}/library/alpine"), (MOUNT, 1, f"{HUB}/library/alpine")],
    ),
    "without a repository it is looked for, the newest first": (
        "busybox",
        [entry(1, ""), entry(3, ""), entry(2, "")],
        LARGE,
        [(CHECK, 2, ""), (CHECK, 3, ""), (CHECK, 1, "")],
    ),
    "the same team before another, the newest before the older": (
        "user/app",
        [entry(1, f"{HUB}/user/old"), entry(2, f"{HUB}/user/new"), entry(3, f"{HUB}/library/app")],
        LARGE,
        [
            (CHECK, 2, f"{HUB}/user/new"),
            (MOUNT, 2, f"{HUB}/user/new"),
            (MOUNT, 1, f"{HUB}/user/old"),
            (MOUNT, 3, f"{HUB}/library/app"),
            (CHECK, 1, f"{HUB}/user/old"),
            (CHECK, 3, f"{HUB}/library/app"),
        ],
    ),
    "the same credentials come before everything": (
        "user/app",
        [entry(1, f"{HUB}/far/away", KEY), entry(2, f"{HUB}/user/near", OTHERS_KEY), entry(3, f"{HUB}/user/bare")],
        MIDDLE,
        [
            (CHECK, 1, f"{HUB}/far/away"),
            (MOUNT, 1, f"{HUB}/far/away"),
            (MOUNT, 3, f"{HUB}/user/bare"),
            (MOUNT, 2, f"{HUB}/user/near"),
        ],
    ),
    "a small layer is worth one of each": (
        "user/app",
        [entry(number, f"{HUB}/user/r{number}") for number in range(1, 4)],
        SMALL,
        [(CHECK, 3, f"{HUB}/user/r3"), (MOUNT, 3, f"{HUB}/user/r3")],
    ),
    "the target is never mounted from": (
        "user/app",
        [entry(1, f"{HUB}/user/app", KEY), entry(2, f"{HUB}/user/app")],
        MIDDLE,
        [(CHECK, 1, f"{HUB}/user/app")],
    ),
    "a name that is not canonical is no source": (
        "busybox",
        [entry(1, "alpine"), entry(2, f"{HUB}/alpine")],
        LARGE,
        [(CHECK, 2, f"{HUB}/alpine"), (CHECK, 1, "alpine")],
    ),
    "one digest is looked for once": (
        "user/app",
        [entry(1, f"{HUB}/user/app", KEY), entry(1, f"{HUB}/user/app"), entry(2, f"{HUB}/user/app")],
        LARGE,
        [(CHECK, 1, f"{HUB}/user/app"), (CHECK, 2, f"{HUB}/user/app")],
    ),
}


@pytest.mark.parametrize(("target", "entries", "size", "asked"), CASES.values(), ids=CASES)
def test_what_is_asked_is_what_docker_asks_in_its_order(
    sql_store: SQLMetadataStore, target: str, entries: list[V2Metadata], size: int, asked: list[tuple[str, int, str]]
):
    fill(sql_store, entries)
    found = layer_candidates(sql_store, LAYER, target, hmac_key=KEY, size=size)
    assert [(step.action, int(step.digest[7:], 16), step.source_repository) for step in found.steps] == asked


def reasons(found: object, action: str) -> dict[str, str]:
    left_out = getattr(found, "left_out")  # noqa: B009  # any answer with reasons
    return {one.source_repository: one.reason for one in left_out if one.action == action}


def test_each_place_says_credentials_likeness_and_age():
    entries = (
        entry(1, "localhost:5000/team/a", KEY),
        entry(2, "localhost:5000/b", OTHERS_KEY),
        entry(3, "localhost:5000/team/c"),
    )
    steps = candidates_of(KnownLayer(LAYER, entries), TARGET, hmac_key=KEY, size=MIDDLE).steps
    assert [step.reason for step in steps if step.action == MOUNT] == [
        "the same credentials; 2 of 3 parts of the name in common; number 3 from the newest",
        "no HMAC, as of a pull; 2 of 3 parts of the name in common; the newest",
        "other credentials; 1 of 3 parts of the name in common; number 2 from the newest",
    ]


def test_each_omission_says_why():
    entries = (
        entry(1, ""),
        entry(2, "busybox"),
        entry(3, "registry.example/team/app"),
        entry(4, TARGET, OTHERS_KEY),
        entry(5, "localhost:5000/team/b"),
        entry(6, "localhost:5000/team/c"),
        entry(6, "localhost:5000/team/d"),
    )
    found = candidates_of(KnownLayer(LAYER, entries), TARGET, size=SMALL)
    assert reasons(found, MOUNT) == {
        "": "its repository is not known",
        "busybox": "the name is not canonical",
        "registry.example/team/app": "another registry: registry.example, not localhost:5000",
        TARGET: "it is the target itself",
        "localhost:5000/team/b": "beyond the limit of 1 mount for its size",
        "localhost:5000/team/c": "beyond the limit of 1 mount for its size",
    }
    assert reasons(found, CHECK) == {
        "": "beyond the limit of 1 check for its size",
        "busybox": "not known from the target, and behind the first check that counts for its size",
        "registry.example/team/app": "not known from the target, and behind the first check that counts for its size",
        TARGET: "beyond the limit of 1 check for its size",
        "localhost:5000/team/b": "not known from the target, and behind the first check that counts for its size",
        "localhost:5000/team/c": "its digest is checked already, for a better association",
    }


def random_entry(draw: random.Random) -> V2Metadata:
    repositories = [
        "",
        "x",
        "docker.io/x",
        *(f"{host}/{path}" for host in (HUB, HOST) for path in ("t/a", "t/b", "u/a")),
    ]
    return entry(draw.randrange(6), draw.choice(repositories), draw.choice([None, KEY, OTHERS_KEY]))


@given(st.randoms(use_true_random=False), st.sampled_from([None, SMALL, MIDDLE, LARGE]), st.sampled_from([None, KEY]))
def test_every_association_is_asked_about_or_left_out_by_each_action(
    draw: random.Random, size: int | None, key: bytes | None
):
    """And the order is that of the pure functions, called one after the other."""
    entries = tuple(dict.fromkeys(random_entry(draw) for _ in range(draw.randrange(20))))
    target = draw.choice(["t/a", f"{HOST}/t/a", "x"])
    found = candidates_of(KnownLayer(LAYER, entries), target, hmac_key=key, size=size)

    attempts = push_attempts(size)
    first = existence_candidates(entries, target, hmac_key=key, limit=1)
    mounts = mount_candidates(entries, target, hmac_key=key, limit=attempts.mounts)
    last = existence_candidates(
        entries,
        target,
        hmac_key=key,
        check_other_repositories=attempts.other_repositories,
        checked=[one.digest for one in first],
        limit=attempts.existence_checks - len(first),
    )
    assert (list(found.first_checks), list(found.mounts), list(found.last_checks)) == (first, mounts, last)
    for action in (CHECK, MOUNT):
        steps = [(one.digest, one.source_repository) for one in found.steps if one.action == action]
        left = [(one.digest, one.source_repository) for one in found.left_out if one.action == action]
        assert Counter(steps + left) == Counter((one.digest, one.source_repository) for one in entries)
