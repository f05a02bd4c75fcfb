"""A running containerd by its socket: what is read, what is written and what is not, and daemons that go wrong."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import InvalidInputError, LayerstoreError, TransferError
from layerstore.blobs import BlobRecord
from layerstore.collection import Odd
from layerstore.formats import containerd_live, grpc
from layerstore.formats.containerd import SOURCE, UNCOMPRESSED
from layerstore.formats.containerd_live import Socket
from layerstore.formats.facts import Written
from layerstore.push.candidates import containerd_choice
from tests.formats import daemon
from tests.formats.daemon import Containerd, answering, framed, listening
from tests.formats.test_containerd import GZIP
from tests.formats.test_containers import digest

MANIFEST, CONFIG, LAYER, OTHER = (digest(number) for number in range(1, 5))
KEY = f"{SOURCE}h"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def containerd() -> Containerd:
    """One image of one layer, and a layer of none."""
    refs = {"containerd.io/gc.ref.content.config": CONFIG, "containerd.io/gc.ref.content.l.0": LAYER}
    return Containerd(
        {
            MANIFEST: ({**refs, KEY: "a/b"}, b'{"schemaVersion":2}'),
            CONFIG: ({KEY: "a/b"}, b'{"os":"linux"}'),
            LAYER: ({KEY: "a/b", UNCOMPRESSED: digest(9)}, GZIP + b"layer"),
            OTHER: ({UNCOMPRESSED: digest(8)}, b"short"),
        },
        {"h:5000/a/b:1": MANIFEST},
    )


def read(path: Path, query: str = "") -> list[object]:
    return list(containerd_live.read(Socket.parse(f"containerd:{path}{query}")))


def write(containerd: Containerd, path: Path, record: BlobRecord, *blobs: str, **options: object) -> Written:
    """Write what is known of some blobs into the namespace of Docker."""
    with listening(path, answering(containerd.handle)):
        try:
            return containerd_live.write(
                Socket(str(path), ("moby",)),
                [(digest(int(blob[7:], 16)), record) for blob in blobs or (LAYER,)],
                **options,  # type: ignore[arg-type]
            )
        finally:
            path.unlink()


def places(*paths: str, host: str = "h:5000") -> BlobRecord:
    """Return a record with these repositories, the last one as the newest."""
    return BlobRecord(locations={f"{host}/{name}": at for at, name in enumerate(paths)})


# What a text stands for


@pytest.mark.parametrize(
    ("text", "namespaces"),
    [
        ("containerd:/run/c.sock", ()),
        ("containerd:/run/c.sock?namespace=moby", ("moby",)),
        ("containerd:/run/c.sock?namespace=k8s.io&namespace=moby", ("k8s.io", "moby")),
    ],
)
def test_a_socket_is_a_path_and_namespaces(text: str, namespaces: tuple[str, ...]):
    assert Socket.parse(text) == ("/run/c.sock", namespaces)
    assert Socket.parse(text).name == text


@pytest.mark.parametrize(
    "text",
    [
        "/run/c.sock",
        "containerd:",
        "containerd:?namespace=moby",
        "containerd:/c?",
        "containerd:/c?moby",
        "containerd:/c?ns=moby",
        "containerd:/c?namespace=",
        "containerd:/c?namespace=a%0d%0ab",
        "containerd:/c?namespace=-a",
        f"containerd:/c?namespace={'a' * 77}",
        "containerd:/c?namespace=moby&x=1",
    ],
)
def test_a_text_that_is_no_socket_is_refused(text: str):
    if text == "containerd:/c?":
        assert Socket.parse(text) == ("/c", ())
        return
    with pytest.raises(InvalidInputError, match="containerd"):
        Socket.parse(text)


# Reading


def test_all_namespaces_are_read_unless_some_are_named(containerd: Containerd, path: Path):
    with listening(path, answering(containerd.handle)):
        found = read(path)
        assert read(path, "?namespace=moby") == found
        assert read(path, "?namespace=k8s.io") == []
        with pytest.raises(TransferError, match=r"no namespace 'default', but k8s\.io, moby"):
            read(path, "?namespace=default")

    seen = {"h:5000/a/b": 7_000_000_009}
    assert found == [
        (MANIFEST, BlobRecord(locations=seen)),
        (CONFIG, BlobRecord(compression="uncompressed", locations=seen)),
        (LAYER, BlobRecord(diff_id=digest(9), compression="gzip", locations=seen)),
        (OTHER, BlobRecord(diff_id=digest(8))),
    ]


def test_a_list_of_many_blobs_is_read_whole(path: Path):
    many: dict[str, tuple[dict[str, str], bytes]]
    many = {digest(number): ({KEY: f"a/{number}"}, b"") for number in range(5000)}
    with listening(path, answering(Containerd(many, {"h:5000/a": MANIFEST}).handle)):
        found = [fact for fact in read(path) if not isinstance(fact, Odd)]

    assert len(found) == 5000


# Writing


def test_names_join_what_stands_in_the_label(containerd: Containerd, path: Path):
    written = write(containerd, path, places("c/d", "a/b", "a/a"), LAYER, CONFIG, OTHER)

    assert sorted(containerd.updates) == [
        (CONFIG, KEY, "a/a,a/b,c/d"),
        (LAYER, KEY, "a/a,a/b,c/d"),
        (OTHER, KEY, "a/a,a/b,c/d"),
    ]
    assert (written.added, written.updated, written.unchanged, dict(written.left_out)) == (1, 2, 0, {})
    again = write(containerd, path, places("c/d", "a/b", "a/a"), LAYER, CONFIG, OTHER)
    assert (again.added, again.updated, again.unchanged) == (0, 0, 3)
    assert len(containerd.updates) == 3


def test_a_dry_run_counts_the_same_and_sets_nothing(containerd: Containerd, path: Path):
    tried = write(containerd, path, places("c/d"), LAYER, CONFIG, OTHER, MANIFEST, digest(99), dry_run=True)

    assert containerd.updates == []
    assert tried == write(containerd, path, places("c/d"), LAYER, CONFIG, OTHER, MANIFEST, digest(99))


def test_manifests_and_what_is_not_there_are_left_out(containerd: Containerd, path: Path):
    written = write(containerd, path, places("c/d"), MANIFEST, digest(99))

    assert containerd.updates == []
    assert written.left_out == {
        "not a layer or configuration of a chosen image": 1,
        "the content is not there": 1,
    }


def test_blobs_that_sources_disagree_about_are_left_out(containerd: Containerd, path: Path):
    record = BlobRecord(locations={"h:1/a": 1}, conflicts={"DiffID": (digest(1), digest(2))})
    written = write(containerd, path, record)

    assert containerd.updates == []
    assert written.left_out == {"sources disagree about the blob": 1}


def test_only_the_newest_names_of_each_registry_are_written(containerd: Containerd, path: Path):
    names = [f"n/{number:02}" for number in range(12)]
    record = BlobRecord(locations={**places(*names).locations, **places(*names, host="[::1]:7000").locations})
    written = write(containerd, path, record)

    assert [(key, value) for _, key, value in containerd.updates] == [
        (KEY, ",".join(["a/b", *names[-8:]])),
        (f"{SOURCE}::1", ",".join(names[-8:])),
    ]
    assert written.left_out == {"names beyond the newest 8 of a blob at one registry": 2}


def test_room_stays_in_a_label(containerd: Containerd, path: Path):
    long = [f"{letter * 240}/x" for letter in "cdefgh"]
    containerd.blobs[LAYER][0][KEY] = ",".join(f"{letter * 240}/{letter}" for letter in "abcdefghijkl")
    before = containerd.blobs[LAYER][0][KEY]
    written = write(containerd, path, places(*long))

    [(_, key, value)] = containerd.updates
    assert 3500 < len(key) + len(value) <= 4096 - 256
    assert set(before.split(",")) < set(value.split(","))
    assert f"{'h' * 240}/x" in value  # the newest one
    assert written.left_out == {"the label is full": 1}


def test_only_layers_and_configurations_of_the_named_images(containerd: Containerd, path: Path):
    containerd.blobs[digest(20)] = ({"containerd.io/gc.ref.content.0": MANIFEST}, b"{}")
    containerd.images["docker.io/library/multi:latest"] = digest(20)
    for images in (["h:5000/a/b:1"], ["multi"], ["docker.io/library/multi:latest", "h:5000/a/b:1"]):
        containerd.updates.clear()
        for blob in (LAYER, CONFIG):
            containerd.blobs[blob][0][KEY] = "a/b"
        write(containerd, path, places("c/d"), MANIFEST, CONFIG, LAYER, OTHER, digest(20), images=images)
        assert [blob for blob, _, _ in containerd.updates] == [CONFIG, LAYER]

    with pytest.raises(TransferError, match="no image 'nothing' in the namespace moby"):
        write(containerd, path, places("c/d"), images=["nothing"])


def test_with_a_target_the_one_name_is_written_that_a_push_tries(containerd: Containerd, path: Path):
    record = BlobRecord(
        locations={
            "h:5000/team/app": 9,  # the target itself
            "h:5000/team/old": 1,
            "h:5000/team/new": 2,
            "h:5000/zzz/newest": 3,
            "h:6000/team/other-port": 4,
            "docker.io/team/elsewhere": 5,
        }
    )
    write(containerd, path, record, target="h:5000/team/app")

    assert containerd.updates == [(LAYER, KEY, "a/b,team/new")]
    assert containerd_choice(["a/b", "team/new"], "team/app") == "team/new"


def test_with_a_target_nothing_is_written_that_would_not_be_tried(containerd: Containerd, path: Path):
    containerd.blobs[LAYER][0][KEY] = "team/zzz"
    written = write(containerd, path, places("team/old", "x/y"), target="h:5000/team/app")
    assert containerd.updates == []
    assert written.left_out == {
        "a push would try a name that is there already, and that is not known to have the blob": 1
    }

    containerd.blobs[LAYER][0][KEY] = "team/old,x/y"
    written = write(containerd, path, places("team/old"), target="h:5000/team/app")
    assert containerd.updates == []
    assert (written.unchanged, dict(written.left_out)) == (1, {})


@pytest.mark.parametrize(
    ("label", "target", "choice"),
    [
        ("aaa/none,sid/one,x/none,zzz/none", "new/app", "zzz/none"),
        ("aaa/none,sid/one,x/none,zzz/none", "sid/two", "sid/one"),
        ("sid/one,sid/three", "sid/two", "sid/three"),
        ("sid/two,sid/one", "sid/two", "sid/one"),
        ("sid/two", "sid/two", None),
        ("a/b/c/x,a/b,a/y", "a/b/c/d", "a/b/c/x"),
        ("ab/c,a/z", "ab/d", "ab/c"),
        ("", "a/b", None),
    ],
)
def test_the_choice_is_containerds(label: str, target: str, choice: str | None):
    """The first row was tried with a real one: it asked for zzz/none, and uploaded everything."""
    assert containerd_choice(label.split(","), target) == choice


def test_a_name_that_a_pull_adds_meanwhile_is_kept(containerd: Containerd, path: Path):
    containerd.before_update = lambda blob: containerd.blobs[blob][0].update({KEY: "a/b,pulled/now"})
    write(containerd, path, places("c/d"))

    assert containerd.updates == [(LAYER, KEY, "a/b,c/d,pulled/now")]


def test_content_that_is_removed_meanwhile_is_left_out(containerd: Containerd, path: Path):
    containerd.before_update = lambda blob: containerd.blobs.pop(blob) and None
    written = write(containerd, path, places("c/d"))

    assert (written.added, written.updated) == (0, 0)
    assert written.left_out == {"the content is not there": 1}


def test_exactly_one_namespace_is_written_into(path: Path):
    for namespaces in ((), ("moby", "k8s.io")):
        with pytest.raises(InvalidInputError, match="one namespace"):
            containerd_live.write(Socket(str(path), namespaces), [])


# Daemons that go wrong


def test_nobody_there_is_told_from_no_socket(path: Path, tmp_path: Path):
    with pytest.raises(TransferError, match="cannot be asked: No such file"):
        read(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with pytest.raises(TransferError, match="no daemon listens there"):
            read(path)
    (tmp_path / "file").touch()
    with pytest.raises(TransferError, match="no daemon listens there"):
        read(tmp_path / "file")


def silent(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def garbage(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    silent(connection)


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (silent, "does not answer in time"),
        (garbage, "cannot be read|not answer in time"),
        (lambda connection: None, "closed the connection|broke off|Broken pipe"),
        (answering(lambda *call: ([], 7)), r"containerd refuses that: no such thing \(gRPC status 7\)"),
        (answering(lambda *call: ([], grpc.OK)), "0 messages where one was due"),
        (answering(lambda *call: ([b"", b""], grpc.OK)), "2 messages where one was due"),
        (answering(lambda *call: ([b"\xff"], grpc.OK)), "a number is cut off"),
        (answering(lambda *call: ([b"\x0a\x05ab"], grpc.OK)), "a field is cut off"),
        (answering(lambda *call: ([b"\x0b"], grpc.OK)), "unknown type 3"),
        (answering(lambda *call: ([b"\x08\x05"], grpc.OK)), "cannot be read"),
        (answering(lambda *call: ([b"\x0a\x02\x12\x00"], grpc.OK)), "cannot be read"),
        (answering(lambda *call: ([b"\x0a\x03\x0a\x01\xff"], grpc.OK)), "cannot be read"),
        (answering(lambda *call: ([], -1)), "no status"),
    ],
)
def test_what_a_daemon_must_not_say_is_one_error(
    serve: Callable[[socket.socket], None], words: str, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(grpc, "TIMEOUT_S", 0.5)
    with listening(path, serve), pytest.raises(LayerstoreError, match=words):
        read(path)


def test_messages_and_answers_have_a_bound(path: Path, monkeypatch: pytest.MonkeyPatch):
    def one_message(size: int) -> Callable[[str, dict[str, str], bytes], daemon.Answer]:
        return lambda *call: ([b"x" * size], grpc.OK)

    monkeypatch.setattr(grpc, "MAX_MESSAGE", 1000)
    with listening(path, answering(one_message(1001))), pytest.raises(TransferError, match="over 0 MiB"):
        read(path)
    path.unlink()
    monkeypatch.undo()
    monkeypatch.setattr(grpc, "MAX_MESSAGES", 10)
    with (
        listening(path, answering(lambda *call: ([b""] * 11, grpc.OK))),
        pytest.raises(TransferError, match="one too many"),
    ):
        read(path)
    path.unlink()
    monkeypatch.undo()
    monkeypatch.setattr(grpc, "MAX_BYTES", 100_000)
    with listening(path, answering(one_message(200_000))), pytest.raises(TransferError, match="it is over"):
        read(path)


def test_a_daemon_that_trickles_is_not_waited_for_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch):
    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")  # settings
        while True:
            connection.sendall(b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8))  # a ping
            time.sleep(0.01)

    monkeypatch.setattr(grpc, "LONGEST_S", 0.3)
    with listening(path, trickle), pytest.raises(TransferError, match="does not answer in time"):
        read(path)


def test_a_message_may_come_in_any_pieces():
    message = b"x" * 70_000
    channel = object.__new__(grpc.Channel)
    answer = grpc._Answer(channel)
    data = framed(message) + framed(b"")
    from h2.events import DataReceived

    for start in range(0, len(data), 999):
        event = DataReceived(stream_id=1)
        event.data = data[start : start + 999]
        answer.take(event)

    assert list(answer.messages()) == [message, b""]
