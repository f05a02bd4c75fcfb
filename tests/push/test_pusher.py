"""`examples/pusher.py` against a registry of a few lines, for what a real one cannot be made to answer at will."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from examples import pusher
from examples.pusher import Layout, Pusher, PushError, Registry
from layerstore import (
    AuthConfig,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    compute_hmac,
    compute_hmac_key,
)
from layerstore.repository import parse_normalized
from tests.push.layouts import Written, layer, write_layout

TARGET = parse_normalized("registry.example/team/app")
SOURCE = "registry.example/team/base"
USER = AuthConfig(username="user", password="secret")
Answer = Callable[[httpx.Request], httpx.Response | None]


@pytest.fixture
def layout(tmp_path: Path) -> Written:
    return write_layout(tmp_path / "layout", [layer("file", 1_000)])


@pytest.fixture
def memory(sql_memory: SQLMetadataStore) -> SQLMetadataStore:
    return sql_memory


class Fake:
    """A registry that has nothing and takes everything, unless `answer` says otherwise."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self._answer(request)
        if answer is not None:
            return answer
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": f"/v2/team/app/blobs/uploads/{len(self.requests)}?state=x"})
        return httpx.Response({"HEAD": 404, "PUT": 201, "DELETE": 204}[request.method])

    def saw(self, method: str) -> list[str]:
        return [request.url.path for request in self.requests if request.method == method]


def push(
    store: SQLMetadataStore, layout: Written, answer: Answer, credentials: AuthConfig | None = None
) -> tuple[Fake, Pusher]:
    fake = Fake(answer)
    credentials = credentials or AuthConfig()
    registry = Registry(TARGET, credentials, httpx.MockTransport(fake))
    done = Pusher(registry, store, TARGET, credentials)
    assert done.push(Layout(layout.path), "latest") == layout.manifest
    registry.close()
    return fake, done


def refuse_mounts(request: httpx.Request) -> httpx.Response | None:
    if "mount" in request.url.params:
        return httpx.Response(401, json={"errors": [{"code": "UNAUTHORIZED"}]})
    return None


@pytest.mark.parametrize(
    ("tagged", "credentials", "forgotten"),
    [
        (None, AuthConfig(), False),
        (None, AuthConfig(username="user"), False),
        (None, USER, True),
        (USER, USER, True),
        (AuthConfig(username="other", password="x"), USER, False),
        (None, AuthConfig(registry_token="token"), True),
    ],
    ids=["nobody", "no-password", "untagged", "same", "others", "token"],
)
def test_an_unauthorized_mount_is_forgotten_by_whoever_has_credentials_and_may_judge_it(
    memory: SQLMetadataStore,
    layout: Written,
    *,
    tagged: AuthConfig | None,
    credentials: AuthConfig,
    forgotten: bool,
):
    """As Docker's push: without credentials it may be for want of them, and an HMAC of others is theirs."""
    v2 = V2MetadataService(memory)
    v2.tag_and_add(layout.diff_ids[0], compute_hmac_key(tagged), V2Metadata(layout.digests[0], SOURCE))
    fake, done = push(memory, layout, refuse_mounts, credentials)
    left = [entry.source_repository for entry in v2.get_metadata(layout.diff_ids[0])]
    assert left == ([] if forgotten else [SOURCE]) + [TARGET.name]
    assert done.uploaded == sum(layout.sizes)
    asked = next(request.url.params for request in fake.requests if "mount" in request.url.params)
    assert dict(asked) == {"mount": layout.digests[0], "from": "team/base"}


def test_a_mount_that_only_opens_an_upload_is_used_for_it_and_forgotten(memory: SQLMetadataStore, layout: Written):
    """Several may be opened, of which the last is used and the others are given back."""
    v2 = V2MetadataService(memory)
    big = write_layout(layout.path.parent / "big", [layer("file", 200_000)])
    for name in ("x", "y"):
        v2.add(big.diff_ids[0], V2Metadata(big.digests[0], f"registry.example/team/{name}"))
    fake, _ = push(memory, big, lambda _: None)
    opened = fake.saw("POST")
    assert len(opened) == 3, "two mounts, and one for the configuration"
    mounts = [number for number, request in enumerate(fake.requests, 1) if "mount" in request.url.params]
    assert fake.saw("DELETE") == [f"/v2/team/app/blobs/uploads/{mounts[0]}"]
    assert fake.saw("PUT")[0] == f"/v2/team/app/blobs/uploads/{mounts[1]}"
    assert [entry.source_repository for entry in v2.get_metadata(big.diff_ids[0])] == [TARGET.name]


def test_what_is_found_is_recorded_once_and_with_the_key(memory: SQLMetadataStore, layout: Written):
    def found(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(200, headers={"Content-Length": "5"}) if request.method == "HEAD" else None

    for _ in range(2):
        fake, done = push(memory, layout, found, USER)
        assert (done.uploaded, fake.saw("POST")) == (0, [])
    plain = V2Metadata(layout.digests[0], TARGET.name)
    (entry,) = V2MetadataService(memory).get_metadata(layout.diff_ids[0])
    assert entry == V2Metadata(plain.digest, plain.source_repository, compute_hmac(compute_hmac_key(USER), plain))


def test_a_list_that_cannot_be_read_is_begun_anew_with_a_warning(
    memory: SQLMetadataStore, layout: Written, caplog: pytest.LogCaptureFixture
):
    memory.set("v2metadata-by-diffid", layout.diff_ids[0].replace(":", "/"), b"[{")
    push(memory, layout, lambda _: None)
    assert len(V2MetadataService(memory).get_metadata(layout.diff_ids[0])) == 1
    assert "cannot be read" in caplog.text


def test_a_token_is_got_once_where_the_registry_says(memory: SQLMetadataStore, layout: Written):
    """And the user's password goes to that place alone."""
    challenge = 'Bearer realm="https://auth.example/token",service="r",scope="repository:team/app:pull,push"'

    def answer(request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "auth.example":
            return httpx.Response(200, json={"token": "t0ken"})
        if request.headers.get("Authorization") != "Bearer t0ken":
            return httpx.Response(401, headers={"WWW-Authenticate": challenge})
        return None

    fake, done = push(memory, layout, answer, USER)
    assert done.uploaded == sum(layout.sizes)
    asked = [request for request in fake.requests if request.url.host == "auth.example"]
    assert [dict(request.url.params) for request in asked] == [
        {"service": "r", "scope": "repository:team/app:pull,push"}
    ]
    basic = "Basic " + base64.b64encode(b"user:secret").decode()
    assert [request.url.host for request in fake.requests if request.headers.get("Authorization") == basic] == [
        "auth.example"
    ]


def test_credentials_are_not_sent_to_another_host_that_takes_the_upload(memory: SQLMetadataStore, layout: Written):
    def answer(request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "storage.example":
            assert "Authorization" not in request.headers
            return httpx.Response(201)
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": "https://storage.example/here"})
        if "Authorization" not in request.headers:
            return httpx.Response(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return None

    fake, _ = push(memory, layout, answer, USER)
    assert [request.url.host for request in fake.requests if request.method == "PUT"] == [
        "storage.example",
        "storage.example",
        "registry.example",
    ]


def test_a_refused_upload_records_nothing(memory: SQLMetadataStore, layout: Written):
    def answer(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(507, text="disk full") if request.method == "PUT" else None

    with pytest.raises(PushError, match="507 disk full"):
        push(memory, layout, answer)
    assert list(memory.entries()) == []


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run the example; return what it says when it fails."""
    level = logging.getLogger("httpx").level

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["pusher.py", *map(str, arguments)])
        assert pusher.main() == 3
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    yield run
    logging.getLogger("httpx").setLevel(level)


def test_what_is_wrong_is_told_in_one_line(command: Callable[..., str], layout: Written, tmp_path: Path):
    (tmp_path / "client.json").write_text("{}")
    options = ("--db", tmp_path / "layers.db", "--config", tmp_path / "client.json")
    assert "No such file" in command(tmp_path / "absent", "localhost:1/app", *options)
    assert "not a repository name" in command(layout.path, "localhost:1/App", *options)
    assert "here are 0 manifests" in command(layout.path, "localhost:1/app", "--image", "other", *options)
    assert "refused" in command(layout.path, "127.0.0.1:1/app", *options)
    index = layout.path / "index.json"
    index.write_text(json.dumps({"manifests": [{"mediaType": "x", "digest": "../../x"}]}))
    assert "not a valid digest" in command(layout.path, "localhost:1/app", *options)
