"""Repository names: what a typed name becomes, which names are canonical, which are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import InvalidRepositoryError, V2Metadata, canonical_repository, mount_candidates
from layerstore.repository import (
    MAX_PATH_LENGTH,
    Repository,
    canonical_domain,
    parse_normalized,
    why_not_canonical,
)

HEX_64 = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a"
DIGEST = f"sha256:{HEX_64}"

NORMALIZED = [
    # What distribution's own tests of the reference package take (normalize_test.go).
    ("debian", "docker.io", "library/debian"),
    ("library/debian", "docker.io", "library/debian"),
    ("docker/docker", "docker.io", "docker/docker"),
    ("docker.io/debian", "docker.io", "library/debian"),
    ("docker.io/library/debian", "docker.io", "library/debian"),
    ("docker.io/docker/docker", "docker.io", "docker/docker"),
    ("index.docker.io/debian", "docker.io", "library/debian"),
    ("index.docker.io/library/debian", "docker.io", "library/debian"),
    ("index.docker.io/docker/docker", "docker.io", "docker/docker"),
    ("127.0.0.1:5000/debian", "127.0.0.1:5000", "debian"),
    ("127.0.0.1:5000/library/debian", "127.0.0.1:5000", "library/debian"),
    ("192.168.0.1", "docker.io", "library/192.168.0.1"),
    ("[fc00::1]:5000/docker", "[fc00::1]:5000", "docker"),
    ("[fc00::1]/docker/docker", "[fc00::1]", "docker/docker"),
    ("[fc00:1:2:3:4:5:6:7]:5000/library/debian", "[fc00:1:2:3:4:5:6:7]:5000", "library/debian"),
    (f"docker.io/{HEX_64}", "docker.io", f"library/{HEX_64}"),
    ("Docker/docker", "Docker", "docker"),
    ("DOCKER/docker", "DOCKER", "docker"),
    ("docker---rules/docker", "docker.io", "docker---rules/docker"),
    ("dock__er/docker", "docker.io", "dock__er/docker"),
    ("d/docker", "docker.io", "d/docker"),
    ("store/foo/bar", "docker.io", "store/foo/bar"),
    ("library/foo/bar", "docker.io", "library/foo/bar"),
    ("ubuntu-12.04-base", "docker.io", "library/ubuntu-12.04-base"),
    ("example.com:8000/private/moonbase", "example.com:8000", "private/moonbase"),
    ("test_com/foo", "docker.io", "test_com/foo"),
    ("test-com:8080/foo", "test-com:8080", "foo"),
    ("xn--n3h.com:18080/foo", "xn--n3h.com:18080", "foo"),
    # Ours.
    ("localhost/app", "localhost", "app"),
    ("localhost:5000/a/b", "localhost:5000", "a/b"),
    ("localhost", "docker.io", "library/localhost"),
    ("docker.io", "docker.io", "library/docker.io"),
    ("Registry.Example/app", "Registry.Example", "app"),
    ("my_host.example/app", "", "my_host.example/app"),
    (f"a.example/{'x' * MAX_PATH_LENGTH}", "a.example", "x" * MAX_PATH_LENGTH),
    (f"{'h' * 300}.example/app", f"{'h' * 300}.example", "app"),
]

INVALID = {
    # What distribution's own tests of the reference package refuse (normalize_test.go).
    "https://github.com/docker/docker": "leave out the scheme; the form is",
    "docker/Docker": "upper-case",
    "docker.io/docker/Docker": "upper-case",
    "-docker": "the form is",
    "-docker/docker": "the form is",
    "docker-/docker": "the form is",
    "-docker.io/docker/docker": "the form is",
    "docker///docker": "the form is",
    "docker.io/docker///docker": "the form is",
    "[fc00::1]": "the form is",
    "[fc00::1]:5000": "the form is",
    "fc00::1:5000/debian": "the form is",
    "[fe80::1%eth0]:5000/debian": "the form is",
    "[2001:db8:3:4::192.0.2.33]:5000/debian": "the form is",
    HEX_64: "image's ID",
    "____/____": "the form is",
    "_docker/_docker": "the form is",
    "dock..er/docker": "the form is",
    "dock_.er/docker": "the form is",
    "dock-.er/docker": "the form is",
    "dock___er/docker": "the form is",
    "docker/": "the form is",
    # Ours.
    "": "the form is",
    "/app": "the form is",
    "Busybox": "upper-case",
    "localhost:5000": "tag or digest",
    "busybox:latest": "tag or digest",
    "localhost:5000/app:1.0": "tag or digest",
    f"busybox@{DIGEST}": "tag or digest",
    f"busybox:latest@{DIGEST}": "tag or digest",
    "busybox\n": "the form is",
    "localhost:٥/app": "the form is",  # digits, but not ASCII ones
    "büsybox": "the form is",
    "a b": "the form is",
    "\ud800": "the form is",
    f"a.example/{'x' * (MAX_PATH_LENGTH + 1)}": "256 characters, 255 are allowed",
    # `library/` counts.
    "x" * (MAX_PATH_LENGTH - len("library/") + 1): "256 characters, 255 are allowed",
}


@pytest.mark.parametrize(("name", "domain", "path"), NORMALIZED)
def test_a_name_is_normalized(name, domain, path):
    assert parse_normalized(name) == Repository(domain, path)


@pytest.mark.parametrize(("name", "reason"), INVALID.items())
def test_what_is_no_name_is_refused_and_the_message_says_why(name, reason):
    with pytest.raises(InvalidRepositoryError) as caught:
        parse_normalized(name)
    assert repr(name) in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", [None, b"busybox", 5])
def test_what_is_not_text_is_refused(name):
    with pytest.raises(InvalidRepositoryError, match="text is needed"):
        parse_normalized(name)


@pytest.mark.parametrize(("name", "domain", "path"), NORMALIZED)
def test_what_a_name_becomes_is_canonical_and_stays_as_it_is(name, domain, path):
    repository = parse_normalized(name)
    assert repository.name == (f"{domain}/{path}" if domain else path)
    assert parse_normalized(repository.name) == repository
    assert canonical_domain(repository.name) == domain


@pytest.mark.parametrize(("name", "domain", "path"), NORMALIZED)
def test_a_name_that_normalizing_changes_is_not_canonical(name, domain, path):
    is_canonical = name == (f"{domain}/{path}" if domain else path)
    assert canonical_domain(name) == (domain if is_canonical else None)


@pytest.mark.parametrize("name", [name for name, reason in INVALID.items() if reason != "tag or digest"])
def test_what_is_no_name_is_not_canonical(name):
    assert canonical_domain(name) is None


@pytest.mark.parametrize(
    ("suffix", "is_canonical"),
    [
        (":latest", True),
        (":V1.0_x-y", True),
        (f"@{DIGEST}", True),
        (f":latest@{DIGEST}", True),
        (f"@sha512:{HEX_64 * 2}", True),
        (":", False),
        (":-x", False),
        (":é", False),
        (f":{'t' * 128}", True),
        (f":{'t' * 129}", False),
        ("@", False),
        (f"@{DIGEST}:latest", False),
        (f"@{DIGEST[:-1]}", False),
        (f"@{DIGEST.upper()}", False),
        (f"@sha256:{HEX_64.upper()}", False),
        (f"@md5:{HEX_64[:32]}", False),
    ],
)
def test_a_well_formed_tag_or_digest_leaves_a_name_canonical(suffix, is_canonical):
    """As in Docker, whose check compares the whole reference with what it was read from."""
    assert canonical_domain(f"docker.io/library/busybox{suffix}") == ("docker.io" if is_canonical else None)
    assert canonical_domain(f"busybox{suffix}") is None


pieces = st.sampled_from(
    ["docker.io", "index.docker.io", "localhost", "a", "A", "b-b", "x_y.z", "[::1]", ":1", "_", ""]
)
names = st.one_of(
    st.lists(pieces, min_size=1, max_size=4).map("/".join),
    st.lists(pieces, min_size=1, max_size=4).map("".join),
    st.text(st.sampled_from("aB0._-:/@[] \n"), max_size=12),
    st.text(max_size=8),
)


@given(names)
def test_any_text_is_refused_or_becomes_a_canonical_name(name):
    try:
        repository = parse_normalized(name)
    except InvalidRepositoryError:
        return
    assert canonical_domain(repository.name) == repository.domain
    assert parse_normalized(repository.name) == repository
    assert len(repository.path) <= MAX_PATH_LENGTH
    assert not repository.path.startswith("/")


@given(names)
def test_a_canonical_name_without_tag_is_one_that_normalizing_keeps(name):
    domain = canonical_domain(name)
    try:
        kept = parse_normalized(name).name == name
    except InvalidRepositoryError as error:
        kept = domain is not None and "tag or digest" in str(error)
    assert kept == (domain is not None)


@pytest.mark.parametrize(("name", "domain", "path"), NORMALIZED)
@pytest.mark.parametrize("suffix", ["", ":latest", ":V1.0_x-y", f"@{DIGEST}", f":1@{DIGEST}"])
def test_the_canonical_name_of_a_reference_is_that_of_its_repository(name, domain, path, suffix):
    assert canonical_repository(name + suffix) == Repository(domain, path).name


def test_a_port_that_no_repository_follows_is_a_tag():
    """As for `docker pull localhost:5000`."""
    assert canonical_repository("localhost:5000") == "docker.io/library/localhost"


@pytest.mark.parametrize(
    "name",
    [
        *(name for name, reason in INVALID.items() if reason != "tag or digest"),
        *("https://index.docker.io/v1/", "http://localhost:5000/app", "Team/App", "a b", " busybox", "busybox "),
        *("busybox:", "busybox:a b", "busybox:-x", f"busybox:{'t' * 129}", "busybox@", "busybox@x", "busybox@md5:12"),
        *(f"busybox@{DIGEST[:-1]}", f"busybox@{DIGEST}:1", None, b"busybox"),
    ],
)
def test_what_is_no_reference_has_no_canonical_name(name):
    # A first part with upper-case letters is a registry's host, of which `App` is no repository, but `app` would be.
    with pytest.raises(InvalidRepositoryError, match="not a repository name"):
        canonical_repository(name)


@given(names)
def test_a_canonical_name_is_its_own_and_the_only_one_that_nothing_is_said_of(name):
    try:
        canonical = canonical_repository(name)
    except InvalidRepositoryError:
        assert name == "" or why_not_canonical(name) is not None
        return
    assert canonical_repository(canonical) == canonical == parse_normalized(canonical).name
    assert (why_not_canonical(name) is None) == (name == canonical)


@given(names)
def test_what_nothing_is_said_of_can_be_mounted_from(name):
    domain = canonical_domain(name)
    if name and domain and why_not_canonical(name) is None:
        assert mount_candidates([V2Metadata(DIGEST, name)], f"{domain}/zz/zz") == [V2Metadata(DIGEST, name)]
