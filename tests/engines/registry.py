"""A registry of one's own, and a door before it that writes down what is carried in."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.engines.processes import DEADLINE_S, program, running


class Image(NamedTuple):
    """The blobs of an image: digests, and the layers' sizes in bytes, lowest first."""

    config: str
    layers: list[str]
    sizes: list[int]


@dataclass
class Registry:
    """A registry: its address, and what it was sent.

    Attributes:
        address: host and port.
        storage: where it keeps its blobs and repositories.
        uploaded: the bytes of each blob that was sent in request bodies, by repository and digest. A blob that was
            mounted, or found there, is not in it.
        mounted: the repository that each mounted blob came from, by repository and digest.
        fetched: repository and digest of each blob that was downloaded, as often as it was.
    """

    address: str
    storage: Path
    uploaded: dict[str, dict[str, int]] = field(default_factory=dict)
    mounted: dict[str, dict[str, str]] = field(default_factory=dict)
    fetched: list[tuple[str, str]] = field(default_factory=list)
    _pending: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def saw(self, method: str, target: str, body: int, status: int) -> None:
        """Take down one answered request."""
        url = urlsplit(target)
        if method == "GET" and "/blobs/sha256:" in url.path and status < 400:
            name, _, digest = url.path.removeprefix("/v2/").partition("/blobs/")
            self.fetched.append((name, digest))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        repository, found, upload = url.path.removeprefix("/v2/").partition("/blobs/uploads/")
        if not found or status >= 400:
            return
        with self._lock:
            sent = self._pending.pop(upload, 0) + body
            if method == "POST" and "mount" in query and status == 201:
                self.mounted.setdefault(repository, {})[query["mount"]] = query["from"]
            elif "digest" in query and status == 201:
                self.uploaded.setdefault(repository, {})[query["digest"]] = sent
            elif method == "PATCH":
                self._pending[upload] = sent

    def manifest(self, repository: str) -> dict[str, Any]:
        """Return the manifest of a repository's image `latest`."""
        connection = http.client.HTTPConnection(self.address, timeout=DEADLINE_S)
        try:
            types = (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.oci.image.manifest.v1+json",
            )
            connection.request("GET", f"/v2/{repository}/manifests/latest", headers={"Accept": ", ".join(types)})
            manifest: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return manifest

    def image(self, repository: str) -> Image:
        """Return the blobs of a repository's image `latest`, as its manifest has them."""
        manifest = self.manifest(repository)
        return Image(
            config=manifest["config"]["digest"],
            layers=[layer["digest"] for layer in manifest["layers"]],
            sizes=[layer["size"] for layer in manifest["layers"]],
        )

    def layer_bytes(self, repository: str) -> list[int]:
        """Return how many bytes of each layer of a repository's image were sent for it, lowest first."""
        sent = self.uploaded.get(repository, {})
        return [sent.get(digest, 0) for digest in self.image(repository).layers]

    @contextmanager
    def without(self, owner: str) -> Iterator[None]:
        """Lose all repositories `owner/…` for a while, as when someone deletes them."""
        there = self.storage / "docker/registry/v2/repositories" / owner
        aside = self.storage / f"lost-{owner}"
        there.rename(aside)
        try:
            yield
        finally:
            shutil.rmtree(there, ignore_errors=True)
            aside.rename(there)


class _Upstream(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("registry", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class _Door(BaseHTTPRequestHandler):
    """Hand each request on, whole, and its answer back."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and content are two writes; a client may be slow to acknowledge the first
    upstream: str
    registry: Registry

    def handle(self) -> None:
        # A client that begins TLS is answered as a real registry does, and so it tries again without.
        if self.connection.recv(1, socket.MSG_PEEK) == b"\x16":
            self.connection.recv(1 << 16)
            self.wfile.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            return
        super().handle()

    def _hand_on(self) -> None:
        body = self._body()
        # A daemon sends a line of `Accept` for each type.
        headers = {name: ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        headers.pop("Transfer-Encoding", None)
        headers["Content-Length"] = str(len(body))
        upstream = _Upstream(self.upstream)
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        self.registry.saw(self.command, self.path, len(body), answer.status)
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _hand_on  # noqa: N815  # http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the registry has a log of its own."""


@contextmanager
def registry_at(home: Path, sockets: Path, *, htpasswd: str | None = None) -> Iterator[Registry]:
    """Run a registry with its storage below `home`, reached through a free port of the loopback address.

    With `htpasswd`, lines of user and bcrypt hash, it asks for credentials.

    The port is the door's, bound before anyone knows its number; the registry itself has a Unix socket.
    """
    home.mkdir()
    socket_path = sockets / "registry.sock"
    storage = home / "storage"
    configuration = home / "registry.yml"
    configuration.write_text(
        "version: 0.1\n"
        "log: {level: warn, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {storage}}}}}\n"
        f"http: {{net: unix, addr: {socket_path}}}\n"
    )

    if htpasswd is not None:
        (home / "htpasswd").write_text(htpasswd)
        with configuration.open("a") as file:
            file.write(f"auth: {{htpasswd: {{realm: trial, path: {home / 'htpasswd'}}}}}\n")

    def answers() -> bool:
        upstream = _Upstream(str(socket_path))
        try:
            upstream.request("GET", "/v2/")
            return upstream.getresponse().status == (200 if htpasswd is None else 401)
        except OSError:
            return False
        finally:
            upstream.close()

    handler = type("Door", (_Door,), {"upstream": str(socket_path)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as door:
        registry = handler.registry = Registry(f"127.0.0.1:{door.server_port}", storage)  # type: ignore[attr-defined]  # made above
        command = [program("docker-registry"), "serve", configuration]
        # It does not catch the signal.
        ended = -signal.SIGTERM
        with running(command, home=home, log=home / "registry.log", answers=answers, exit_code=ended):
            thread = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield registry
            finally:
                door.shutdown()
                thread.join()
