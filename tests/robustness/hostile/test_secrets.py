"""No credential and no HMAC key is in anything that is written, said, logged or raised; HMACs take equal time."""

from __future__ import annotations

import hmac
import io
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore import (
    AuthConfig,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    check_hmac,
    compute_hmac,
    compute_hmac_key,
    diff,
    existence_candidates,
    export_directory,
    import_directory,
    mount_candidates,
    verify,
)
from layerstore.transfer.exporting import export_tar
from tests.support.command import Run, database, run
from tests.support.counting import Counted
from tests.support.strategies import sha256

__all__ = ["database", "run"]  # fixtures of the command's tests

REPOSITORY = "localhost:5000/team/app"
AUTH = AuthConfig(
    "user-6b1f", "password-0c9a&", "dXNlci02YjFmOnBhc3N3b3Jk", "identity-token-77e1", "registry-token-4d2b"
)
KEY = compute_hmac_key(AUTH)
assert KEY is not None
SECRETS = [
    AUTH.username,
    AUTH.password,
    "password-0c9a",
    AUTH.auth,
    AUTH.identity_token,
    AUTH.registry_token,
    KEY.decode(),
    KEY.decode().removeprefix("sha256:"),
]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that any logger says, at any level, with the traces of what was raised."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    loggers = [logging.getLogger(name) for name in ("", "layerstore", "sqlalchemy", "sqlalchemy.engine", "alembic")]
    before = [logger.level for logger in loggers]
    logging.getLogger().addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield said
    logging.getLogger().removeHandler(handler)
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def raised(work: Callable[[], object]) -> str:
    """Return all that Python shows of an error, and what crosses to another process with it."""
    try:
        work()
    except Exception as error:
        return "".join(traceback.format_exception(error)) + repr(error) + repr(pickle.dumps(error.args))
    raise AssertionError("it was no error")


class Failing:
    """A store in which nothing succeeds."""

    def get(self, namespace: str, key: str) -> bytes:
        raise OSError(f"get {namespace} {key}")

    def set(self, namespace: str, key: str, value: bytes) -> None:
        raise OSError(f"set {namespace} {key} {value!r}")

    def delete(self, namespace: str, key: str) -> None:
        raise OSError(f"delete {namespace} {key}")


def errors() -> dict[str, Callable[[], object]]:
    """Return what goes wrong with a key in its hands."""
    memory = SQLMetadataStore(":memory:")
    closed = SQLMetadataStore(":memory:")
    closed.close()
    association = V2Metadata(sha256(2), REPOSITORY)
    wrong: dict[str, Callable[[], object]] = {
        "no digest": lambda: V2MetadataService(memory).tag_and_add("x", KEY, association),
        "no blob": lambda: V2MetadataService(memory).tag_and_add(sha256(1), KEY, V2Metadata("x", REPOSITORY)),
        "a store that fails": lambda: V2MetadataService(Failing()).tag_and_add(sha256(1), KEY, association),
        "a closed store": lambda: V2MetadataService(closed).tag_and_add(sha256(1), KEY, association),
        "a key that is text": lambda: compute_hmac(KEY.decode(), association),  # type: ignore[arg-type, union-attr]
        "a check with a key that is text": lambda: check_hmac(
            V2Metadata(sha256(2), REPOSITORY, "00" * 32),
            KEY.decode(),  # type: ignore[arg-type, union-attr]
        ),
        "a password of bytes": lambda: compute_hmac_key(AuthConfig("u", AUTH.password.encode())),  # type: ignore[arg-type]
        "no metadata": lambda: compute_hmac(KEY, REPOSITORY),  # type: ignore[arg-type]
        "no repository": lambda: mount_candidates([association], "", hmac_key=KEY),
        "no limit": lambda: existence_candidates([association], REPOSITORY, hmac_key=KEY, limit="x"),  # type: ignore[arg-type]
    }
    return wrong


@pytest.mark.parametrize("name", errors())
def test_no_error_shows_a_secret(name: str, log: io.StringIO, counted: Counted):
    try:
        said = raised(errors()[name])
    except AssertionError:
        said = ""  # it is taken as it is, which is no error
    counted("access", len(SECRETS))

    assert [secret for secret in SECRETS if secret in said + log.getvalue()] == []


def test_no_file_report_output_or_log_has_a_secret(
    tmp_path: Path, log: io.StringIO, run: Run, database: Path, counted: Counted
):
    database.parent.mkdir()
    said = [repr(AUTH), str(AUTH), f"{AUTH}", repr(V2Metadata(sha256(2), REPOSITORY))]
    with SQLMetadataStore(database) as store:
        v2 = V2MetadataService(store)
        for number in range(60):
            v2.tag_and_add(sha256(number % 3), KEY, V2Metadata(sha256(100 + number), REPOSITORY))
        v2.tag_and_add(sha256(5), KEY, V2Metadata(sha256(100), REPOSITORY))  # logs that it was another layer
        store.set("v2metadata-by-diffid", sha256(1).replace(":", "/"), b"{")
        v2.tag_and_add(sha256(1), KEY, V2Metadata(sha256(1000), REPOSITORY))  # logs that the list was unreadable
        known = v2.get_metadata(sha256(0))
        assert check_hmac(known[0], KEY)
        said += map(repr, mount_candidates(known, "localhost:5000/other/app", hmac_key=KEY))
        said += map(repr, existence_candidates(known, REPOSITORY, hmac_key=KEY))
        said += [repr(v2), repr(store), repr(known), repr(store.engine)]
        said += [repr(verify(store)), repr(export_directory(store, tmp_path / "distribution"))]
        store.backup(tmp_path / "copy.db")
        with open(tmp_path / "given.tar", "wb") as file:
            export_tar(store, file)
        said.append(repr(diff(store, tmp_path / "distribution")))
        with SQLMetadataStore(tmp_path / "other.db") as other:
            said.append(repr(import_directory(other, tmp_path / "given.tar")))
        kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "other" not in path.name}
        assert Path(f"{database}-wal") in kept
    for words in (
        ["list"],
        ["list", "--json"],
        ["show", REPOSITORY],
        ["show", REPOSITORY, "--json"],
        ["verify", "--json"],
    ):
        result = run(*words)
        said += [result.out, result.err]
    assert "another layer" in log.getvalue() or "was layer" in log.getvalue()

    everything = [*said, log.getvalue(), *(content.decode("latin-1") for content in kept.values())]
    counted("access", len(everything) * len(SECRETS))
    assert [secret for secret in SECRETS for text in everything if secret in text] == []
    assert any(known[0].hmac in text for text in everything), "what is looked through has the HMACs"


@pytest.mark.parametrize("answer", [True, False])
def test_what_decides_is_the_comparison_in_constant_time(monkeypatch: pytest.MonkeyPatch, answer: bool):
    """Whatever it says is so, also against the truth; and it is given both HMACs whole."""
    asked: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        asked.append((one, other))
        return answer

    right = V2Metadata(sha256(2), REPOSITORY, compute_hmac(KEY, V2Metadata(sha256(2), REPOSITORY)))
    wrong = V2Metadata(sha256(2), REPOSITORY, "00" * 32)
    monkeypatch.setattr(hmac, "compare_digest", compare)

    assert [check_hmac(right, KEY), check_hmac(wrong, KEY)] == [answer, answer]
    assert [len(one) for one, _ in asked] == [32, 32]
    assert {other.hex() for _, other in asked} == {right.hmac}


def test_candidates_are_ordered_by_that_comparison_too(monkeypatch: pytest.MonkeyPatch):
    asked: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        asked.append(other)
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    associations = [V2Metadata(sha256(number), f"localhost:5000/team/{number}", "00" * 32) for number in range(5)]
    mount_candidates(associations, REPOSITORY, hmac_key=KEY)
    existence_candidates(associations, REPOSITORY, hmac_key=KEY)

    assert len(set(asked)) == 5
