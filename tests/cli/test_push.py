"""`candidates`, `plan`, and `show` of an image: what they print, as JSON too, and how they end."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from layerstore import (
    AuthConfig,
    FSMetadataStore,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    compute_hmac_key,
)
from tests.docker.conftest import FIRST, SECOND, THIRD, DataRoot, data_root
from tests.support.command import BAD, DONE, FOUND, USAGE, Run, assert_one_line_error, lines
from tests.support.strategies import sha256

__all__ = ["data_root"]

HOST = "localhost:5000"
PASSWORD = "s3cr&t"
BLOB, NEWER, LOST = sha256(1), sha256(2), sha256(3)


@pytest.fixture(autouse=True)
def client_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of Docker's client that commands read unless told otherwise; it is not there yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "client"))
    return tmp_path / "client" / "config.json"


def log_in(configuration: Path) -> None:
    configuration.parent.mkdir(exist_ok=True)
    auth = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    configuration.write_text(json.dumps({"auths": {HOST: {"auth": auth}}}))


KEY = compute_hmac_key(AuthConfig(username="user", password=PASSWORD))


@pytest.fixture
def with_sources(database: Path) -> Path:
    """A database that knows three sources of a layer, one of them with credentials, and a digest that its list lost."""
    with SQLMetadataStore(database) as store:
        v2 = V2MetadataService(store)
        v2.tag_and_add(FIRST, KEY, V2Metadata(BLOB, f"{HOST}/far/app"))
        v2.tag_and_add(FIRST, compute_hmac_key(AuthConfig()), V2Metadata(NEWER, f"{HOST}/team/base"))
        v2.add(FIRST, V2Metadata(BLOB, "busybox"))
        store.set("diffid-by-digest", LOST.replace(":", "/"), FIRST.encode())
    return database


def test_candidates_are_shown_in_order_with_a_reason_for_each(run: Run, with_sources: Path):
    result = run("candidates", FIRST, f"{HOST}/team/app", "--size", "5")

    assert (result.code, result.err) == (DONE, "")
    assert lines(result.out) == [
        f"layer {FIRST} to {HOST}/team/app",
        "  5 bytes: 1 check, then mounts (at most 1), then checks (at most 1 in all, with digests of the target)",
        "  asked in this order, until one succeeds:",
        f"    1  check  {NEWER}  {HOST}/team/base  the same credentials; 2 of 3 parts of the name in common;"
        " number 2 from the newest",
        f"    2  mount  {NEWER}  {HOST}/team/base  the same credentials; 2 of 3 parts of the name in common;"
        " number 2 from the newest",
        "  left out:",
        f"    -  mount  {BLOB}  busybox                 the name is not canonical",
        f"    -  mount  {BLOB}  {HOST}/far/app  beyond the limit of 1 mount for its size",
        f"    -  check  {BLOB}  busybox                 not known from the target, and behind the first check that"
        " counts for its size",
        f"    -  check  {BLOB}  {HOST}/far/app  not known from the target, and behind the first check that"
        " counts for its size",
        "  blobs of this layer that are not in its list, so that Docker does not look for them:",
        f"    {LOST}",
    ]
    assert with_sources.exists()


def test_credentials_change_the_order_and_are_never_shown(run: Run, with_sources: Path, client_configuration: Path):
    log_in(client_configuration)
    elsewhere = client_configuration.parent.with_name("elsewhere")
    shutil.copytree(client_configuration.parent, elsewhere)

    by_default = run("candidates", FIRST, f"{HOST}/team/app", "--json")
    client_configuration.unlink()
    named = run("candidates", FIRST, f"{HOST}/team/app", "--config", elsewhere, "--json")
    without = run("candidates", FIRST, f"{HOST}/team/app", "--json")

    assert by_default.json == named.json != without.json
    mounts = [step["source_repository"] for step in named.json["steps"] if step["action"] == "mount"]
    assert mounts == [f"{HOST}/far/app", f"{HOST}/team/base"]
    for secret in (PASSWORD, "user:", base64.b64encode(f"user:{PASSWORD}".encode()).decode(), (KEY or b"").decode()):
        assert secret not in named.out + by_default.out
    assert with_sources.exists()


def test_candidates_as_json_have_every_field(run: Run, with_sources: Path):
    found = run("candidates", FIRST, f"{HOST}/team/app:1.0", "--json").json
    assert found["diff_id"] == FIRST
    assert found["target_repository"] == f"{HOST}/team/app", "a tag behind the target counts for nothing"
    assert found["size"] is None
    assert found["attempts"] == {"mounts": 3, "existence_checks": 1, "other_repositories": False}
    assert found["unlisted"] == [LOST]
    assert {tuple(one) for one in found["steps"] + found["left_out"]} == {
        ("action", "digest", "source_repository", "reason")
    }
    assert with_sources.exists()


def test_a_layer_of_which_nothing_is_known_exits_with_1(run: Run, with_sources: Path):
    result = run("candidates", SECOND, "busybox", "--size", "20000000")
    assert (result.code, lines(result.out)) == (
        FOUND,
        [
            f"layer {SECOND} to docker.io/library/busybox",
            "  20,000,000 bytes: 1 check, then mounts (at most 4), then checks (at most 3 in all,"
            " with digests of any repository)",
            "  nothing to ask: the layer would be uploaded",
        ],
    )
    assert with_sources.exists()


@pytest.mark.parametrize("digits", [FIRST[7:19], FIRST[:19], FIRST[7:]], ids=["12", "with-algorithm", "all"])
def test_the_first_12_digits_of_a_layer_are_enough(run: Run, with_sources: Path, digits: str):
    """A push prints as many."""
    assert run("candidates", digits, "localhost:5000/x").out == run("candidates", FIRST, "localhost:5000/x").out
    assert with_sources.exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["abc", "busybox"], "12 hex digits"),
        (["a layer", "busybox"], "not a valid DiffID"),
        ([BLOB[7:19], "busybox"], "several begin with"),
        ([FIRST, "Busybox"], "only the host may have upper-case letters"),
        ([FIRST, "busybox", "--config", "/nonexistent"], "No such file"),
    ],
)
def test_bad_input_is_told_in_one_line(run: Run, with_sources: Path, arguments: list[str], part: str):
    result = run("candidates", *arguments)
    assert result.code == BAD
    assert_one_line_error(result, part)
    assert with_sources.exists()


def test_digits_that_begin_no_layer_are_not_found(run: Run, with_sources: Path):
    result = run("candidates", "f" * 12, "busybox")
    assert result.code == FOUND
    assert_one_line_error(result, "f" * 12, with_sources)


def test_a_size_below_zero_is_wrong_usage(run: Run, with_sources: Path):
    assert run("candidates", FIRST, "busybox", "--size", "-1").code == USAGE
    assert with_sources.exists()


@pytest.fixture
def app(data_root: DataRoot) -> str:
    """An image of three layers, one of which comes twice."""
    return data_root.image(["team/app:1.0"], [(FIRST, 5), (SECOND, 200_000), (FIRST, 5), (THIRD, 0)])


def test_a_plan_is_a_table_with_totals(run: Run, with_sources: Path, data_root: DataRoot, app: str):
    with SQLMetadataStore(with_sources) as store:
        V2MetadataService(store).add(SECOND, V2Metadata(sha256(5), f"{HOST}/team/app"))

    result = run("plan", "team/app:1.0", f"{HOST}/team/app", "--data-root", data_root.path)

    assert (result.code, result.err) == (DONE, "")
    assert lines(result.out) == [
        f"image {app} (overlay2) to {HOST}/team/app",
        f"  1  {FIRST}        5  mount from {HOST}/team/base  the one candidate that is tried",
        f"  2  {SECOND}  200,000  exists                               known to be in the target",
        f"  3  {THIRD}        0  upload                               nothing is known of it",
        "exists 1 layer, 200,000 bytes; mount 1 layer, 5 bytes; upload 1 layer, 0 bytes",
    ]


def test_a_plan_as_json_has_every_layer_and_the_totals(run: Run, with_sources: Path, data_root: DataRoot, app: str):
    found = run("plan", app[7:19], f"{HOST}/team/app:2.0", "--data-root", data_root.path, "--json").json
    assert (found["image_id"], found["driver"], found["target_repository"]) == (app, "overlay2", f"{HOST}/team/app")
    assert found["layers"][0] == {
        "diff_id": FIRST,
        "size": 5,
        "action": "mount",
        "digest": NEWER,
        "source_repository": f"{HOST}/team/base",
        "reason": "the one candidate that is tried",
    }
    assert [layer["action"] for layer in found["layers"]] == ["mount", "upload", "upload"]
    assert found["totals"] == {
        "exists": {"layers": 0, "bytes": 0},
        "mount": {"layers": 1, "bytes": 5},
        "upload": {"layers": 2, "bytes": 200_000},
    }
    assert with_sources.exists()


def test_a_plan_uses_the_clients_credentials_for_the_targets_registry(
    run: Run, with_sources: Path, data_root: DataRoot, app: str, client_configuration: Path
):
    line = ("plan", app, f"{HOST}/team/app", "--data-root", data_root.path, "--json")
    log_in(client_configuration)
    assert run(*line).json["layers"][0]["source_repository"] == f"{HOST}/far/app"
    assert run(*line, "--config", "/dev/null").json["layers"][0]["source_repository"] == f"{HOST}/team/base"
    assert with_sources.exists()


def test_a_plan_as_the_daemon_needs_no_database_and_writes_nothing(
    run: Run, database: Path, data_root: DataRoot, app: str
):
    line = ("plan", app, f"{HOST}/team/app", "--data-root", data_root.path, "--as-daemon", "--json")
    assert [layer["action"] for layer in run(*line).json["layers"]] == ["upload"] * 3
    distribution = data_root.driver() / "distribution"
    assert not distribution.exists()
    with FSMetadataStore(distribution) as files:
        V2MetadataService(files).add(FIRST, V2Metadata(BLOB, f"{HOST}/x"))
    assert [layer["action"] for layer in run(*line).json["layers"]] == ["mount", "upload", "upload"]
    assert not database.exists()


def test_an_image_that_is_not_there_exits_with_1(run: Run, with_sources: Path, data_root: DataRoot, app: str):
    for line in (("plan", "team/app:2.0", "busybox"), ("show", "team/app:2.0")):
        result = run(*line, "--data-root", data_root.path)
        assert result.code == FOUND
        assert_one_line_error(result, data_root.path, "no image 'team/app:2.0'")
    assert run("show", app, "--data-root", data_root.path, "--driver", "overlay2").code == DONE
    result = run("show", app, "--data-root", data_root.path, "--driver", "vfs")
    assert result.code == BAD
    assert_one_line_error(result, data_root.path, "no image/vfs/imagedb")
    assert with_sources.exists()


def test_an_image_of_no_layers_has_an_empty_plan(run: Run, with_sources: Path, data_root: DataRoot):
    image_id = data_root.image(["none:latest"], {})
    result = run("plan", "none", "busybox", "--data-root", data_root.path)
    assert lines(result.out) == [
        f"image {image_id} (overlay2) to docker.io/library/busybox",
        "exists 0 layers, 0 bytes; mount 0 layers, 0 bytes; upload 0 layers, 0 bytes",
    ]
    assert with_sources.exists()


def test_an_image_is_shown_layer_by_layer(run: Run, with_sources: Path, data_root: DataRoot, app: str):
    result = run("show", "team/app:1.0", "--data-root", data_root.path)

    assert (result.code, result.err) == (DONE, "")
    out = lines(result.out)
    assert out[:3] == [f"image {app} (overlay2) has 3 layers", "", f"layer {FIRST}"]
    assert out[3].startswith("  list modified ")
    unknown = [("", f"layer {diff_id}", "  nothing is known about it") for diff_id in (SECOND, THIRD)]
    assert out[-6:] == [*unknown[0], *unknown[1]]
    assert f"    {LOST}" in out
    assert with_sources.exists()


def test_an_image_as_json_has_its_layers_known_or_not(run: Run, with_sources: Path, data_root: DataRoot, app: str):
    (image,) = run("show", "team/app:1.0", "--data-root", data_root.path, "--json").json
    assert (image["kind"], image["image_id"], image["driver"]) == ("image", app, "overlay2")
    assert [(layer["diff_id"], layer["known"]) for layer in image["layers"]] == [
        (FIRST, True),
        (SECOND, False),
        (THIRD, False),
    ]
    assert image["layers"][0]["digests"] == [BLOB, NEWER, LOST]
    assert with_sources.exists()


def test_an_image_of_which_nothing_is_known_exits_with_1(run: Run, with_sources: Path, data_root: DataRoot):
    data_root.image(["new:latest"], {THIRD: 1})
    result = run("show", "new", "--data-root", data_root.path)
    assert (result.code, lines(result.out)[-1]) == (FOUND, "  nothing is known about it")
    assert with_sources.exists()


def test_a_driver_without_a_data_root_is_wrong_usage(run: Run, with_sources: Path):
    result = run("show", "new", "--driver", "vfs")
    assert (result.code, result.raw) == (USAGE, b"")
    assert "--driver goes with --data-root" in result.err
    assert with_sources.exists()


def test_control_characters_of_a_data_root_do_not_reach_the_terminal(run: Run, with_sources: Path, data_root: DataRoot):
    data_root.image(["app:latest"], {FIRST: 1})
    (data_root.driver() / "repositories.json").write_text('{"Repositories":{"app":{"app:latest":"\\u001b[2J"}}}')
    result = run("plan", "app", "busybox", "--data-root", data_root.path)
    assert result.code == BAD
    assert "\x1b" not in result.err
    assert with_sources.exists()


def test_candidates_of_another_engine_are_by_its_rule(run: Run, with_sources: Path):
    """containerd has one try for each blob; Podman never uses a blob whose compression is not known."""
    shown = run("candidates", FIRST, f"{HOST}/team/app", "--engine", "containerd").out.splitlines()
    assert shown[0] == f"layer {FIRST} to {HOST}/team/app, by containerd"
    assert [line.split()[1:4] for line in shown[1:]] == [
        ["mount", BLOB, f"{HOST}/far/app"],
        ["mount", NEWER, f"{HOST}/team/base"],
    ]

    result = run("candidates", FIRST, f"{HOST}/team/app", "--engine", "containers")
    assert result.code == FOUND
    assert result.out.splitlines()[1:3] == [
        "  nothing to ask: the layer would be uploaded",
        "  never used, as their compression is not known:",
    ]
    found = run("candidates", FIRST, "team/app", "--engine", "containers", "--json").json
    assert found == {
        "diff_id": FIRST,
        "target_repository": "docker.io/team/app",
        "engine": "containers",
        "steps": [],
        "unused": sorted([BLOB, NEWER, LOST]),
    }
