"""Mount candidates, existence candidates and attempts: Docker's own cases, and the rules behind them."""

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import (
    InvalidRepositoryError,
    PushAttempts,
    V2Metadata,
    check_hmac,
    compute_hmac,
    existence_candidates,
    mount_candidates,
    push_attempts,
)
from layerstore.repository import canonical_domain, parse_normalized

KIB, MIB = 1024, 1024 * 1024


def tagged(key: str, digest: str, repository: str) -> V2Metadata:
    return V2Metadata(digest, repository, compute_hmac(key.encode(), V2Metadata(digest, repository)))


class MountCase(NamedTuple):
    target: str
    metadata: list[V2Metadata]
    candidates: list[V2Metadata]
    key: bytes = b""
    limit: int | None = None


# Source: Docker's push_v2_test.go, TestGetRepositoryMountCandidates.
MOUNT_CASES = {
    "empty metadata": MountCase("busybox", [], []),
    "one item not matching": MountCase("busybox", [tagged("key", "dgst", "127.0.0.1/repo")], []),
    "one item matching": MountCase(
        "busybox",
        [tagged("hash", "1", "docker.io/library/hello-world")],
        [tagged("hash", "1", "docker.io/library/hello-world")],
    ),
    "allow missing SourceRepository": MountCase("busybox", [V2Metadata("1"), V2Metadata("3"), V2Metadata("2")], []),
    "handle docker.io": MountCase(
        "user/app",
        [
            V2Metadata("1", "docker.io/user/foo"),
            V2Metadata("3", "docker.io/user/bar"),
            V2Metadata("2", "docker.io/library/app"),
        ],
        [
            V2Metadata("3", "docker.io/user/bar"),
            V2Metadata("1", "docker.io/user/foo"),
            V2Metadata("2", "docker.io/library/app"),
        ],
    ),
    "sort more items": MountCase(
        "127.0.0.1/foo/bar",
        [
            tagged("hash", "1", "docker.io/library/hello-world"),
            tagged("efgh", "2", "127.0.0.1/hello-world"),
            tagged("abcd", "3", "docker.io/library/busybox"),
            tagged("hash", "4", "docker.io/library/busybox"),
            tagged("hash", "5", "127.0.0.1/foo"),
            tagged("hash", "6", "127.0.0.1/bar"),
            tagged("efgh", "7", "127.0.0.1/foo/bar"),
            tagged("abcd", "8", "127.0.0.1/xyz"),
            tagged("hash", "9", "127.0.0.1/foo/app"),
        ],
        [
            tagged("abcd", "8", "127.0.0.1/xyz"),
            tagged("hash", "9", "127.0.0.1/foo/app"),
            tagged("hash", "5", "127.0.0.1/foo"),
            tagged("hash", "6", "127.0.0.1/bar"),
            tagged("efgh", "2", "127.0.0.1/hello-world"),
        ],
        key=b"abcd",
    ),
    "limit max candidates": MountCase(
        "user/app",
        [
            tagged("abcd", "1", "docker.io/user/app1"),
            tagged("abcd", "2", "docker.io/user/app/base"),
            tagged("hash", "3", "docker.io/user/app"),
            tagged("abcd", "4", "127.0.0.1/user/app"),
            tagged("hash", "5", "docker.io/user/foo"),
            tagged("hash", "6", "docker.io/app/bar"),
        ],
        [
            tagged("abcd", "2", "docker.io/user/app/base"),
            tagged("abcd", "1", "docker.io/user/app1"),
            tagged("hash", "5", "docker.io/user/foo"),
        ],
        key=b"abcd",
        limit=3,
    ),
}


@pytest.mark.parametrize("case", MOUNT_CASES.values(), ids=MOUNT_CASES)
def test_mount_candidates_are_those_of_dockers_own_cases(case):
    assert mount_candidates(case.metadata, case.target, hmac_key=case.key, limit=case.limit) == case.candidates


class ExistenceCase(NamedTuple):
    target: str
    metadata: list[V2Metadata]
    requests: list[str]
    """Digests that Docker asks for, up to the first one that the registry has."""
    found: str | None = None
    removed: tuple[V2Metadata, ...] = ()
    """What Docker removes: for a digest that is gone, the association that stood for it."""
    key: bytes = b""
    limit: int = 3
    other_repositories: bool = False


BUSYBOX, APP, MYAPP = "docker.io/library/busybox", "docker.io/user/app", "127.0.0.1/myapp"

# Source: Docker's push_v2_test.go, TestLayerAlreadyExists.
EXISTENCE_CASES = {
    "empty metadata": ExistenceCase("busybox", [], [], other_repositories=True),
    "single not existent metadata": ExistenceCase(
        "busybox", [V2Metadata("pear", BUSYBOX)], ["pear"], removed=(V2Metadata("pear", BUSYBOX),)
    ),
    "access denied": ExistenceCase("busybox", [V2Metadata("apple", BUSYBOX)], ["apple"], limit=1),
    "not matching repositories": ExistenceCase(
        "busybox",
        [
            V2Metadata("apple", "docker.io/library/hello-world"),
            V2Metadata("orange", "docker.io/library/busybox/subapp"),
            V2Metadata("pear", "docker.io/busybox"),
            V2Metadata("plum", "busybox"),
            V2Metadata("banana", "127.0.0.1/busybox"),
        ],
        [],
    ),
    "check other repositories": ExistenceCase(
        "busybox",
        [
            V2Metadata("apple", "docker.io/library/hello-world"),
            V2Metadata("orange", "docker.io/busybox/subapp"),
            V2Metadata("pear", "docker.io/busybox"),
            V2Metadata("plum", BUSYBOX),
            V2Metadata("banana", "127.0.0.1/busybox"),
        ],
        ["plum", "apple", "pear", "orange", "banana"],
        removed=(V2Metadata("plum", BUSYBOX),),
        limit=10,
        other_repositories=True,
    ),
    "find existing blob": ExistenceCase("busybox", [V2Metadata("apple", BUSYBOX)], ["apple"], found="apple"),
    "find existing blob with different hmac": ExistenceCase(
        "busybox", [V2Metadata("apple", BUSYBOX, "dummyhmac")], ["apple"], found="apple"
    ),
    "overwrite media types": ExistenceCase(
        "busybox", [V2Metadata("apple", BUSYBOX)], ["apple"], found="apple", key=b"key"
    ),
    "find existing blob among many": ExistenceCase(
        "127.0.0.1/myapp",
        [tagged("someotherkey", "pear", MYAPP), tagged("key", "apple", MYAPP), tagged("", "plum", MYAPP)],
        ["apple", "plum", "pear"],
        found="pear",
        removed=(tagged("key", "apple", MYAPP), V2Metadata("plum", MYAPP)),
        key=b"key",
    ),
    "reach maximum existence checks": ExistenceCase(
        "user/app",
        [V2Metadata("pear", APP), V2Metadata("apple", APP), V2Metadata("plum", APP), V2Metadata("banana", APP)],
        ["banana", "plum", "apple"],
        removed=(V2Metadata("banana", APP), V2Metadata("plum", APP), V2Metadata("apple", APP)),
    ),
    "zero allowed existence checks": ExistenceCase(
        "user/app",
        [V2Metadata("pear", APP), V2Metadata("apple", APP), V2Metadata("plum", APP), V2Metadata("banana", APP)],
        [],
        limit=0,
    ),
    "stat single digest just once": ExistenceCase(
        "busybox",
        [tagged("key1", "pear", BUSYBOX), tagged("key2", "apple", BUSYBOX), tagged("key3", "apple", BUSYBOX)],
        ["apple", "pear"],
        found="pear",
        removed=(tagged("key3", "apple", BUSYBOX),),
    ),
    "don't stop on first error": ExistenceCase(
        "user/app",
        [tagged("key", "banana", APP), tagged("key", "orange", APP), tagged("key", "plum", APP)],
        ["plum", "orange", "banana"],
        removed=(tagged("key", "plum", APP), tagged("key", "banana", APP)),
        key=b"key",
    ),
    "remove outdated metadata": ExistenceCase(
        "docker.io/user/app",
        [V2Metadata("plum", BUSYBOX), V2Metadata("orange", APP)],
        ["orange"],
        removed=(V2Metadata("orange", APP),),
    ),
    "missing SourceRepository": ExistenceCase(
        "busybox", [V2Metadata("1"), V2Metadata("3"), V2Metadata("2")], ["2", "3", "1"]
    ),
    "with and without SourceRepository": ExistenceCase(
        "busybox",
        [V2Metadata("1"), V2Metadata("2", BUSYBOX), V2Metadata("3")],
        ["2", "3", "1"],
        found="1",
        removed=(V2Metadata("2", BUSYBOX),),
    ),
}


@pytest.mark.parametrize("case", EXISTENCE_CASES.values(), ids=EXISTENCE_CASES)
def test_existence_candidates_are_those_of_dockers_own_cases(case):
    candidates = existence_candidates(
        case.metadata,
        case.target,
        hmac_key=case.key,
        check_other_repositories=case.other_repositories,
        limit=case.limit,
    )
    digests = [candidate.digest for candidate in candidates]
    if case.found is not None:
        digests = digests[: digests.index(case.found) + 1]
    assert digests == case.requests
    assert [candidate for candidate in candidates if candidate in case.removed] == list(case.removed)


@pytest.mark.parametrize(
    "repository",
    [
        "",
        "busybox",
        "docker.io/busybox",
        "index.docker.io/team/app",
        "Docker.io/team/app",
        "docker.io/Team/app",
        "docker.io/team//app",
        "docker.io/team/app\n",
        "localhost:5000/team/app",
        "docker.io/library/target",
    ],
)
def test_a_blob_is_not_mounted_from_elsewhere_from_the_target_or_from_a_name_that_is_not_canonical(repository):
    assert mount_candidates([V2Metadata("d", repository)], "target") == []


def test_a_repository_with_a_tag_is_a_source_of_its_own():
    """Docker never writes one; where there is one, it is taken as it stands."""
    entries = [V2Metadata("d", f"{BUSYBOX}:latest")]
    assert mount_candidates(entries, "busybox") == entries


def test_components_are_compared_whole_and_from_the_left():
    near, prefix, far = (V2Metadata("d", f"docker.io/{path}") for path in ("team/x", "tea/app", "other/app"))
    assert mount_candidates([near, far, prefix], "team/app") == [near, prefix, far]


def test_the_same_credentials_count_more_than_likeness_and_likeness_more_than_age():
    other_team = tagged("key", "1", "docker.io/other/x")
    same_team = tagged("other", "2", "docker.io/team/x")
    newest = tagged("other", "3", "docker.io/other/y")
    assert mount_candidates([other_team, same_team, newest], "team/app", hmac_key=b"key") == [
        other_team,
        same_team,
        newest,
    ]


@pytest.mark.parametrize("key", [None, b""])
def test_without_a_key_an_empty_hmac_is_the_one_that_matches(key):
    untagged, later = V2Metadata("1", "docker.io/team/x"), tagged("key", "2", "docker.io/team/y")
    assert mount_candidates([untagged, later], "team/app", hmac_key=key) == [untagged, later]
    assert mount_candidates([untagged, later], "team/app", hmac_key=b"key") == [later, untagged]


def test_one_digest_of_several_repositories_is_mounted_from_each_and_looked_for_once():
    entries = [V2Metadata("d", "docker.io/other/x"), V2Metadata("d", "docker.io/team/x")]
    assert mount_candidates(entries, "team/app") == entries[::-1]
    assert existence_candidates(entries, "team/app") == entries[1:]


def test_what_was_checked_takes_no_place_under_the_limit():
    entries = [V2Metadata(digest, APP) for digest in "abcd"]
    assert existence_candidates(entries, "user/app", checked={"d", "b"}, limit=2) == [entries[2], entries[0]]


@pytest.mark.parametrize("choose", [mount_candidates, existence_candidates])
@pytest.mark.parametrize(("limit", "count"), [(None, 3), (0, 0), (1, 1), (3, 3), (9, 3)])
def test_the_limit_cuts_the_tail(choose, limit, count):
    entries = [V2Metadata(digest, f"docker.io/user/{digest}") for digest in "abc"]
    assert choose(entries, "user/app", limit=limit) == entries[::-1][:count]


def test_names_without_a_host_are_of_one_registry():
    """A first part that looks like a host and cannot be one leaves Docker with an empty host to compare."""
    entries = [V2Metadata("d", name) for name in ("", "busybox", "other_host.example/app", "docker.io/team/app")]
    assert mount_candidates(entries, "my_host.example/app") == entries[2:3]


def test_a_limit_below_zero_is_none_for_mounts_and_zero_for_checks():
    """As in Docker, whose remaining checks can fall below zero."""
    entries = [V2Metadata("a", "docker.io/user/x"), V2Metadata("b", "docker.io/user/y")]
    assert mount_candidates(entries, "user/app", limit=-1) == entries[::-1]
    assert existence_candidates(entries, "user/app", limit=-1) == []


@pytest.mark.parametrize("choose", [mount_candidates, existence_candidates])
@pytest.mark.parametrize("target", ["", "Busybox", "busybox:latest", "localhost:5000", "a//b", None])
def test_a_target_that_is_no_repository_is_refused(choose, target):
    with pytest.raises(InvalidRepositoryError):
        choose([], target)


@pytest.mark.parametrize(
    ("size", "attempts"),
    [
        (-1, (1, 1, False)),
        (0, (1, 1, False)),
        (100 * KIB, (1, 1, False)),
        (100 * KIB + 1, (3, 1, False)),
        (None, (3, 1, False)),
        (10 * MIB, (3, 1, False)),
        (10 * MIB + 1, (4, 3, True)),
        (2**40, (4, 3, True)),
    ],
)
def test_the_larger_a_layer_the_more_attempts(size, attempts):
    assert push_attempts(size) == PushAttempts(*attempts)
    assert push_attempts(size)._fields == ("mounts", "existence_checks", "other_repositories")


KEYS = [None, b"", b"k1", b"k2"]
REPOSITORIES = [
    "",
    "busybox",
    "docker.io/busybox",
    "docker.io/library/busybox",
    "docker.io/library/app",
    "docker.io/team/app",
    "docker.io/team/app/base",
    "docker.io/team/app:tag",
    "docker.io/Team/app",
    "localhost:5000/team/app",
    "localhost:5000/team/other",
    "localhost:5000/app",
]


@st.composite
def associations(draw):
    digest, repository = draw(st.sampled_from(["", "d1", "d2", "d3"])), draw(st.sampled_from(REPOSITORIES))
    plain = V2Metadata(digest, repository)
    hmac = draw(st.sampled_from(["", "", "zz", compute_hmac(b"k1", plain), compute_hmac(b"k2", plain)]))
    return V2Metadata(digest, repository, hmac)


lists = st.lists(associations(), max_size=20)
targets = st.sampled_from(["busybox", "team/app", "app", "localhost:5000/team/app", "localhost:5000/x"])
keys = st.sampled_from(KEYS)
limits = st.one_of(st.none(), st.integers(0, 5))


def preference(metadata: list[V2Metadata], target: str, key: bytes | None) -> list[int]:
    """Order positions by the rules as they are told, from the slower side: counting component by component."""
    wanted = parse_normalized(target).name.split("/")

    def likeness(entry: V2Metadata) -> int:
        have = entry.source_repository.split("/")
        return max(n for n in range(len(wanted) + 1) if have[:n] == wanted[:n])

    return sorted(
        range(len(metadata)),
        key=lambda at: (0 if check_hmac(metadata[at], key) else 1, -likeness(metadata[at]), -at),
    )


@given(lists, targets, keys, limits)
def test_mount_candidates_are_the_eligible_ones_in_order_of_preference(metadata, target, key, limit):
    into = parse_normalized(target)
    eligible = [
        metadata[at]
        for at in preference(metadata, target, key)
        if metadata[at].source_repository != into.name
        and canonical_domain(metadata[at].source_repository) == into.domain
    ]
    result = mount_candidates(iter(metadata), target, hmac_key=key, limit=limit)
    assert result == eligible[:limit]
    assert Counter(result) <= Counter(metadata)


@given(
    metadata=lists,
    target=targets,
    key=keys,
    limit=limits,
    others=st.booleans(),
    checked=st.sets(st.sampled_from(["", "d1", "d4"])),
)
def test_existence_candidates_are_the_best_of_each_digest(*, metadata, target, key, limit, others, checked):
    name = parse_normalized(target).name
    best: dict[str, V2Metadata] = {}
    for at in preference(metadata, target, key):
        entry = metadata[at]
        if others or entry.source_repository in ("", name):
            best.setdefault(entry.digest, entry)
    result = existence_candidates(
        iter(metadata), target, hmac_key=key, check_other_repositories=others, checked=iter(checked), limit=limit
    )
    assert result == [entry for digest, entry in best.items() if digest not in checked][:limit]
    assert Counter(result) <= Counter(metadata)
    assert len({entry.digest for entry in result}) == len(result)


@given(lists, targets, keys)
def test_choosing_is_pure_and_stable(metadata, target, key):
    """The list given stays as it was, and equals keep their order: the later one in the list comes first."""
    before = list(metadata)
    result = mount_candidates(metadata, target, hmac_key=key)
    assert metadata == before
    assert mount_candidates(metadata, target, hmac_key=key) == result
    # What was chosen, put back oldest first, is chosen again in the same order.
    assert mount_candidates(result[::-1], target, hmac_key=key) == result
