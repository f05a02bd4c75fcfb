"""Credentials of Docker's client: the ones that it would send, and no sign of them anywhere else."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from pathlib import Path

import pytest

from layerstore import AuthConfig, TransferError, compute_hmac_key, docker_credentials
from layerstore.push import credentials as credentials_module

HUB = "https://index.docker.io/v1/"
SECRET = "s3cr:et&\x01"


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


@pytest.mark.parametrize(
    ("registry", "key"),
    [
        ("localhost:5000", "localhost:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("localhost:5000", "https://localhost:5000/v2/"),
        ("localhost:5000", "localhost:5000/v1/"),
        ("registry.example", "https://registry.example/v1/"),
        ("[::1]:5000", "https://[::1]:5000/"),
        ("docker.io", HUB),
    ],
)
def test_credentials_are_found_by_the_registrys_name_or_url(config: Path, registry: str, key: str):
    config.write_text(json.dumps({"auths": {"other": basic("a", "b"), key: basic("user", SECRET)}}))
    assert docker_credentials(registry, config=config) == AuthConfig(username="user", password=SECRET)


@pytest.mark.parametrize(
    "key", ["docker.io", "index.docker.io", "https://registry-1.docker.io", "https://index.docker.io/v2/"]
)
def test_those_of_docker_hub_are_kept_under_one_address_alone(config: Path, key: str):
    config.write_text(json.dumps({"auths": {key: basic("user", SECRET)}}))
    assert docker_credentials("docker.io", config=config) == AuthConfig()


def test_the_exact_name_wins_over_a_url(config: Path):
    auths = {"http://host": basic("url", "x"), "host": basic("name", "y")}
    config.write_text(json.dumps({"auths": auths}))
    assert docker_credentials("host", config=config).username == "name"


def test_auth_wins_over_user_and_password_and_is_not_sent_itself(config: Path):
    entry = {"username": "old", "password": "old", "identitytoken": "id", "registrytoken": "reg", "email": "e"}
    config.write_text(json.dumps({"auths": {"host": {**entry, **basic("user", "new\0\0")}, "bare": entry}}))
    assert docker_credentials("host", config=config) == AuthConfig(
        username="user", password="new", identity_token="id", registry_token="reg"
    )
    assert docker_credentials("bare", config=config).password == "old"


@pytest.mark.parametrize("content", ["{}", "", "\n", '{"auths":null,"credHelpers":null}', '{"HttpHeaders":{"a":"b"}}'])
def test_without_any_they_are_empty_and_have_a_key_all_the_same(config: Path, content: str):
    """Docker's client sends empty credentials, and the daemon tags with their key."""
    config.write_text(content)
    found = docker_credentials("localhost:5000", config=config)
    assert found == AuthConfig()
    assert compute_hmac_key(found) is not None


def test_the_default_place_is_the_clients_and_may_be_empty(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nothing"))
    assert docker_credentials("host") == AuthConfig()
    config.write_text(json.dumps({"auths": {"host": basic("user", SECRET)}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert docker_credentials("host").username == "user"
    assert docker_credentials("host", config=tmp_path).username == "user"
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert docker_credentials("host") == AuthConfig()
    config.rename(tmp_path / "moved")
    (tmp_path / ".docker").mkdir()
    (tmp_path / "moved").rename(tmp_path / ".docker" / "config.json")
    assert docker_credentials("host").username == "user"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"auths":["s3cr"]}',
        b'{"auths":{"host":"s3cr"}}',
        b'{"auths":{"host":{"auth":5}}}',
        b'{"auths":{"host":{"auth":"s3cr!"}}}',
        b'{"auths":{"host":{"auth":"' + base64.b64encode(b"s3cr") + b'"}}}',
        b'{"auths":{"host":{"auth":"' + base64.b64encode(b":s3cr") + b'"}}}',
        b'{"auths":{"host":{"auth":"' + base64.b64encode(b"\xffs3cr") + b'"}}}',
        b'{"auths":{"host":{"auth":"\xff s3cr"}}}',
        b'{"auths":{"host":{"x":' + b"[" * 100_000,
        b'{"auths":{"host":{',
        b'\xef\xbb\xbf{"auths":"s3cr"}',
        b"\x0b",
        b"5",
        b'"s3cr"',
        b'{"credsStore":5}',
        b'{"credHelpers":{"host":[]}}',
        b'{"auths":{"host":{"auth":"dTpzM2Ny="}}}',
        b'{"auths":{"host":{"auth":"dTpzM2N"}}}',
        b'{"auths":{"host":{"auth":"dTp=M2Ny"}}}',
        b'{"auths":{"host":{"auth":"dTp zM2Ny"}}}',
        b'{"auths":{"host":{"auth":"dTpz\\tM2Ny"}}}',
        b'{"auths":{"host":{"auth":"dT-_M2Ny"}}}',
        b'{"auths":{"host":{"auth":"dTpz\xd9\xa3M2N"}}}',
    ],
    ids=range(25),
)
def test_a_configuration_that_cannot_be_one_is_an_error_that_shows_no_secret(config: Path, content: bytes):
    config.write_bytes(content)
    with pytest.raises(TransferError) as raised:
        docker_credentials("host", config=config)
    assert raised.value.path == str(config)
    seen: BaseException | None = raised.value
    while seen is not None:
        assert "s3cr" not in str(seen)
        assert base64.b64encode(b"s3cr").decode() not in str(seen)
        seen = None if seen.__suppress_context__ else seen.__cause__ or seen.__context__


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(TransferError, match="No such file"):
            docker_credentials("host", config=path)


def put_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a credential program on PATH that writes down what it is asked."""
    program = tmp_path / "bin" / "docker-credential-test"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$1 $(cat)" >> {tmp_path}/asked\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


@pytest.mark.parametrize(
    "chosen",
    [{"credsStore": "test"}, {"credHelpers": {"host": "test"}, "credsStore": "absent"}],
    ids=["store", "one"],
)
def test_a_credential_program_is_asked_as_the_client_asks_it(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, object]
):
    answer = json.dumps({"ServerURL": "host", "Username": "user", "Secret": SECRET})
    put_program(tmp_path, monkeypatch, f"cat <<'END'\n{answer}\nEND")
    config.write_text(json.dumps({"auths": {"host": {"registrytoken": "reg"}}, **chosen}))
    found = docker_credentials("host", config=config)
    assert found == AuthConfig(username="user", password=SECRET, registry_token="reg")
    assert (tmp_path / "asked").read_text() == "get host\n"


def test_a_credential_program_is_asked_for_docker_hub_by_its_address_and_may_give_a_token(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
):
    put_program(tmp_path, monkeypatch, """echo '{"ServerURL":"x","Username":"<token>","Secret":"tok"}'""")
    config.write_text(json.dumps({"credHelpers": {HUB: "test"}}))
    assert docker_credentials("docker.io", config=config) == AuthConfig(identity_token="tok")
    assert docker_credentials("other", config=config) == AuthConfig()
    assert (tmp_path / "asked").read_text() == f"get {HUB}\n"


def test_a_credential_program_that_has_none_leaves_the_credentials_empty(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    put_program(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    config.write_text(json.dumps({"auths": {"host": basic("old", "old")}, "credsStore": "test"}))
    assert docker_credentials("host", config=config) == AuthConfig()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("script", "name", "why"),
    [
        ("echo s3cr; exit 3", "test", "it ended with 3"),
        ("echo s3cr", "test", "did not answer in JSON"),
        ("printf '\\377s3cr'", "test", "did not answer in JSON"),
        ("""echo '{"Secret":["s3cr"]}'""", "test", "`secret` of the answer is not a string"),
        ("", "absent", "cannot be started (No such file or directory)"),
        ("", "../docker-credential-test", "slash"),
        ("exec sleep 60", "test", "did not answer in"),
    ],
)
def test_a_credential_program_that_fails_is_told_and_the_file_counts_as_for_the_client(
    tmp_path: Path,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    script: str,
    name: str,
    why: str,
):
    monkeypatch.setattr(credentials_module, "PROGRAM_TIMEOUT_S", 0.5 if "sleep" in script else 30.0)
    put_program(tmp_path, monkeypatch, script)
    config.write_text(json.dumps({"auths": {"host": basic("user", SECRET)}, "credsStore": name}))
    assert docker_credentials("host", config=config) == AuthConfig(username="user", password=SECRET)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert why in record.getMessage()
    assert "s3cr" not in record.getMessage()


def test_nothing_shows_the_credentials():
    assert SECRET not in repr(AuthConfig(username="user", password=SECRET))


AS_GO_READS = {
    # "dTpw" is u:p; then the user and the password
    "field names in any case": (b'{"AUTHS":{"host":{"aUtH":"dTpw"}}}', "u", "p"),
    "the two letters outside ASCII that are the same": ('{"auth\u017f":{"host":{"auth":"dTpw"}}}'.encode(), "u", "p"),
    "others are not": ('{"\u00e4uths":{"host":{"auth":"dTpw"}}}'.encode(), "", ""),
    "the whole is null": (b"null", "", ""),
    "something behind null": (b"nullx", "", ""),
    "auths are null": (b'{"auths":null}', "", ""),
    "an entry is null": (b'{"auths":{"other":null,"host":{"auth":"dTpw"}}}', "u", "p"),
    "the entry is null": (b'{"auths":{"https://host":{"auth":"dTpw"},"host":null}}', "", ""),
    "auth is null": (b'{"auths":{"host":{"auth":null,"username":"u","password":"p"}}}', "u", "p"),
    "null leaves a string": (b'{"auths":{"host":{"username":"u","username":null,"password":"p"}}}', "u", "p"),
    "the last of a field": (b'{"auths":{"host":{"username":"x","Username":"u","password":"p"}}}', "u", "p"),
    "the last of an entry, alone": (b'{"auths":{"host":{"username":"x"},"host":{"password":"p"}}}', "", "p"),
    "two maps are one": (b'{"auths":{"host":{"auth":"dTpw"}},"Auths":{"other":{}}}', "u", "p"),
    "null empties a map": (b'{"auths":{"host":{"auth":"dTpw"}},"auths":null}', "", ""),
    "text behind the value": (b'{"auths":{"host":{"auth":"dTpw"}}}}]garbage\xff', "u", "p"),
    "unknown fields of any type": (b'{"x":[{"y":1e999}],"auths":{"host":{"auth":"dTpw","z":[]}}}', "u", "p"),
    "a lone surrogate elsewhere": (b'{"x":"\\ud800","auths":{"host":{"auth":"dTpw"}}}', "u", "p"),
    "a lone surrogate": (b'{"auths":{"host":{"username":"\\udc00u","password":"\\ud800"}}}', "\ufffdu", "\ufffd"),
    "a pair of surrogates": (b'{"auths":{"host":{"username":"\\ud83d\\ude00"}}}', "\U0001f600", ""),
    "bytes that are not UTF-8": (
        b'{"auths":{"host":{"username":"\xe9u","password":"\xe2\x82"}}}',
        "\ufffdu",
        "\ufffd" * 2,
    ),
    "Latin-1 in base64": (
        b'{"auths":{"host":{"auth":"' + base64.b64encode(b"\xe9:p\xe9") + b'"}}}',
        "\ufffd",
        "p\ufffd",
    ),
    "line breaks in base64": (b'{"auths":{"host":{"auth":"\\ndT\\r\\npw\\n"}}}', "u", "p"),
    "line breaks in the padding": (b'{"auths":{"host":{"auth":"dTpwcA=\\n=\\n"}}}', "u", "pp"),
    "bits behind the end": (b'{"auths":{"host":{"auth":"dTpwcB=="}}}', "u", "pp"),
    "NUL around a password": (
        b'{"auths":{"host":{"auth":"' + base64.b64encode(b"u:\0p:\0q\0\0") + b'"}}}',
        "u",
        "p:\0q",
    ),
    "no password": (b'{"auths":{"host":{"auth":"dTo="}}}', "u", ""),
}


@pytest.mark.parametrize(("content", "user", "password"), AS_GO_READS.values(), ids=AS_GO_READS)
def test_a_configuration_is_read_as_go_reads_it(config: Path, content: bytes, user: str, password: str):
    """By encoding/json's `Decoder` and base64's `StdEncoding`, as in Docker's client."""
    config.write_bytes(content)
    assert docker_credentials("host", config=config) == AuthConfig(username=user, password=password)


def test_the_key_is_of_what_the_daemon_gets_to_read(config: Path):
    """The client sends JSON, so that of a byte that is not UTF-8 the daemon sees U+FFFD, and writes it as it is."""
    config.write_text(json.dumps({"auths": {"host": {"auth": base64.b64encode(b"u:p\xe9\xe9").decode()}}}))
    document = b'{"username":"u","password":"p\xef\xbf\xbd\xef\xbf\xbd"}'

    key = compute_hmac_key(docker_credentials("host", config=config))

    assert key == f"sha256:{hashlib.sha256(document).hexdigest()}".encode()


@pytest.mark.parametrize(
    ("registry", "address", "is_found"),
    [
        ("host", "https://user:x@host/v1/?a#b", True),
        ("host", "//host/x://", True),
        ("host", "https://host:", True),
        ("host:5000", "HTTP+x://host:5000?x", True),
        ("host", "https://ho\nst/", False),
        ("host", "https://host/\x7f", False),
        ("[::1]", "https://[::1]/", False),  # Go's `Hostname` has no brackets
        ("[::1]:5000", "https://[::1]:5000", True),
        ("host:5000", "host:5000/x://y", True),
        ("host", "1http://host", False),
        ("host", "https:///host", False),
    ],
)
def test_the_host_of_a_url_is_what_go_takes_for_it(config: Path, registry: str, address: str, *, is_found: bool):
    config.write_text(json.dumps({"auths": {address: basic("user", SECRET)}}))
    assert (docker_credentials(registry, config=config) != AuthConfig()) is is_found


def test_a_helper_that_is_null_or_empty_stands_for_the_file_alone(config: Path, caplog: pytest.LogCaptureFixture):
    for helper in (None, ""):
        config.write_text(
            json.dumps({"auths": {"host": basic("u", "p")}, "credsStore": "absent", "CREDHELPERS": {"host": helper}})
        )
        assert docker_credentials("host", config=config).username == "u"
    assert caplog.records == []


@pytest.mark.parametrize("answer", ['{"USERNAME":"user","secret":"x"} trailing', '{"Username":"user","Secret":null}'])
def test_the_answer_of_a_credential_program_is_read_as_go_reads_it(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, answer: str
):
    put_program(tmp_path, monkeypatch, f"echo '{answer}'")
    config.write_text(json.dumps({"credsStore": "test"}))
    assert docker_credentials("host", config=config).username == "user"
