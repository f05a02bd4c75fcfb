"""Push an image from an OCI layout, and send only those layers that the registry cannot be made to have otherwise.

    python examples/pusher.py LAYOUT localhost:5000/team/app:1.0 --db layers.db

For each layer it does as Docker's push: look for the best known digest, mount from the repositories that are known to
have it, look for the other digests, upload. What it learns goes to the store, and what has proved wrong goes from it,
so that the next push knows better. A layer that is found or mounted in another compression than the layout's takes its
place in the manifest; `--preserve-digests` forbids that.

Source: Docker's distribution/push_v2.go; OCI distribution-spec, "Push"; OCI image-spec, image-layout.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import sys
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from layerstore import (
    AuthConfig,
    DiffID,
    Digest,
    LayerstoreError,
    NotFoundError,
    SQLMetadataStore,
    Store,
    V2Metadata,
    V2MetadataService,
    check_hmac,
    compute_hmac_key,
    docker_credentials,
    existence_candidates,
    known_layers,
    mount_candidates,
    push_attempts,
)
from layerstore.repository import DEFAULT_DOMAIN, Repository, parse_normalized, parse_reference, split_reference

INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
MAGICS: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

log = logging.getLogger("pusher")


class PushError(Exception):
    """The push cannot go on: what, where, and what the registry said."""


class Layout:
    """An OCI layout directory with one image, or one of that name."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self._path = path
        found = self._json(path / "index.json").get("manifests", [])
        if name is not None:
            found = [
                one for one in found if one.get("annotations", {}).get("org.opencontainers.image.ref.name") == name
            ]
        if len(found) != 1 or found[0]["mediaType"] in INDEXES:
            raise PushError(f"{path}: one image is needed, here are {len(found)} manifests or an index: give --image")
        self.media_type: str = found[0]["mediaType"]
        self.manifest = self.blob(found[0]["digest"]).read_bytes()

    def blob(self, digest: str) -> Path:
        parsed = Digest.parse(digest)
        return self._path / "blobs" / parsed.algorithm / parsed.encoded

    @staticmethod
    def _json(path: Path) -> Any:
        return json.loads(path.read_bytes())


class Credentials(httpx.Auth):
    """Basic credentials, or a token got with them when the registry asks for one; sent to the registry alone.

    Source: distribution's documentation, "Token Authentication Specification".
    """

    def __init__(self, host: str, config: AuthConfig) -> None:
        self._host = host
        self._config = config
        self._header: str | None = f"Bearer {config.registry_token}" if config.registry_token else None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if request.url.netloc.decode() != self._host:
            yield request  # an upload's place may be on another host
            return
        if self._header is not None:
            request.headers["Authorization"] = self._header
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        scheme, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        basic = httpx.BasicAuth(self._config.username, self._config.password) if self._config.username else None
        if scheme.lower() == "basic" and basic is not None:
            authorized = next(basic.auth_flow(request))
            self._header = authorized.headers["Authorization"]
            yield authorized
        elif scheme.lower() == "bearer":
            challenge = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            asked = httpx.Request("GET", challenge.pop("realm"), params=challenge)
            answer = yield (next(basic.auth_flow(asked)) if basic is not None else asked)
            if answer.is_success:
                token = json.loads(answer.read())
                self._header = f"Bearer {token.get('token') or token['access_token']}"
                request.headers["Authorization"] = self._header
                yield request


class Registry:
    """The few requests that a push needs, for one target repository."""

    def __init__(
        self, target: Repository, credentials: AuthConfig, transport: httpx.BaseTransport | None = None
    ) -> None:
        host = "registry-1.docker.io" if target.domain == DEFAULT_DOMAIN else target.domain
        plain = host.partition(":")[0] in ("localhost", "127.0.0.1") or host.startswith("[::1]")  # as Docker
        self._client = httpx.Client(
            base_url=f"{'http' if plain else 'https'}://{host}/v2/{target.path}/",
            auth=Credentials(host, credentials),
            timeout=httpx.Timeout(60.0),
            transport=transport,
        )

    def size(self, digest: str) -> int | None:
        """Return a blob's size, `None` if the target does not have it, or will not say."""
        answer = self._client.head(f"blobs/{digest}", follow_redirects=True)
        return int(answer.headers["Content-Length"]) if answer.is_success else None

    def beginning(self, digest: str) -> bytes:
        """Return a blob's first bytes."""
        with self._client.stream(
            "GET", f"blobs/{digest}", headers={"Range": "bytes=0-3"}, follow_redirects=True
        ) as answer:
            self._expect(answer, 200, 206)
            return next(answer.iter_raw(4), b"")

    def start(self, **mount: str) -> httpx.Response:
        """Ask to mount a blob, or without one for a place to upload to. 201: mounted; 202: a place is in the answer."""
        return self._client.post("blobs/uploads/", params=mount)

    def upload(self, opened: httpx.Response, blob: Path, digest: str) -> int:
        """Send a blob to a place that `start` has opened; return its bytes."""
        self._expect(opened, 202)
        place = opened.url.join(opened.headers["Location"]).copy_merge_params({"digest": digest})
        with blob.open("rb") as content:
            headers = {"Content-Type": "application/octet-stream"}
            self._expect(self._client.put(place, content=content, headers=headers), 201)
        return blob.stat().st_size

    def cancel(self, opened: httpx.Response | None) -> None:
        """Give back a place that is not needed. The registry would clean it up some day."""
        if opened is not None:
            self._client.delete(opened.url.join(opened.headers["Location"]))

    def put_manifest(self, tag: str, manifest: bytes, media_type: str) -> None:
        self._expect(self._client.put(f"manifests/{tag}", content=manifest, headers={"Content-Type": media_type}), 201)

    @staticmethod
    def _expect(answer: httpx.Response, *codes: int) -> None:
        if answer.status_code not in codes:
            said = answer.read().decode(errors="replace")[:500]
            raise PushError(f"{answer.request.method} {answer.url.copy_with(query=None)}: {answer.status_code} {said}")

    def close(self) -> None:
        self._client.close()


@dataclass
class Pusher:
    """Pushes to one repository, and keeps what it learns.

    Attributes:
        uploaded: the bytes of layers that were sent.
    """

    registry: Registry
    store: Store
    target: Repository
    credentials: AuthConfig
    preserve_digests: bool = False
    uploaded: int = 0
    _metadata: V2MetadataService = field(init=False)
    _key: bytes | None = field(init=False)

    def __post_init__(self) -> None:
        self._metadata = V2MetadataService(self.store)
        self._key = compute_hmac_key(self.credentials)

    def push(self, layout: Layout, tag: str) -> str:
        """Push an image; return its manifest's digest."""
        manifest = json.loads(layout.manifest)
        config = layout.blob(manifest["config"]["digest"])
        diff_ids = [DiffID.parse(one) for one in json.loads(config.read_bytes())["rootfs"]["diff_ids"]]
        layers = [self._layer(*pair, layout) for pair in zip(diff_ids, manifest["layers"], strict=True)]
        if self.registry.size(manifest["config"]["digest"]) is None:
            self.registry.upload(self.registry.start(), config, manifest["config"]["digest"])
        as_it_is = layers == manifest["layers"]
        content = layout.manifest if as_it_is else json.dumps({**manifest, "layers": layers}).encode()
        self.registry.put_manifest(tag, content, layout.media_type)
        return f"sha256:{hashlib.sha256(content).hexdigest()}"

    def _layer(self, diff_id: DiffID, descriptor: dict[str, Any], layout: Layout) -> dict[str, Any]:
        """Make the target have a layer; return its descriptor there."""
        known = self._known(diff_id, descriptor["digest"])
        attempts = push_attempts(descriptor["size"])
        found, checked = self._look(diff_id, known, checked=(), others=True, limit=1)
        if found is not None:
            return self._done(diff_id, descriptor, found, "already exists")

        opened = None
        for candidate in mount_candidates(known, self.target.name, hmac_key=self._key, limit=attempts.mounts):
            source = parse_reference(candidate.source_repository).path
            answer = self.registry.start(mount=candidate.digest, **{"from": source})
            if answer.status_code == httpx.codes.CREATED:
                self._learn(diff_id, candidate.digest)
                return self._done(diff_id, descriptor, candidate.digest, f"mounted from {source}")
            self._forget_source(candidate, answer)
            if answer.status_code == httpx.codes.ACCEPTED:
                self.registry.cancel(opened)
                opened = answer

        found, _ = self._look(
            diff_id,
            known,
            checked=checked,
            others=attempts.other_repositories,
            limit=attempts.existence_checks - len(checked),
        )
        if found is not None:
            self.registry.cancel(opened)
            return self._done(diff_id, descriptor, found, "already exists")
        blob = layout.blob(descriptor["digest"])
        self.uploaded += self.registry.upload(opened or self.registry.start(), blob, descriptor["digest"])
        self._learn(diff_id, descriptor["digest"])
        return self._done(diff_id, descriptor, descriptor["digest"], "uploaded")

    def _known(self, diff_id: DiffID, own: str) -> list[V2Metadata]:
        """Return what is known of a layer, the oldest first: before its list, digests known from nowhere.

        Those are the ones that the list has lost, and the layout's own.
        """
        known = known_layers(self.store, [diff_id])[diff_id]
        if known.unreadable is not None:
            log.warning("%s: its list cannot be read (%s), and is begun anew", diff_id, known.unreadable)
        entries = [*map(V2Metadata, (*known.unlisted, own)), *known.entries]
        return [entry for entry in entries if entry.digest == own] if self.preserve_digests else entries

    def _look(
        self, diff_id: DiffID, known: list[V2Metadata], *, checked: Iterable[str], others: bool, limit: int
    ) -> tuple[str | None, list[str]]:
        """Look for known digests in the target; return the one that is there, and all that were looked for."""
        looked = list(checked)
        for entry in existence_candidates(
            known, self.target.name, hmac_key=self._key, check_other_repositories=others, checked=looked, limit=limit
        ):
            looked.append(entry.digest)
            ours = entry.source_repository == self.target.name
            if self.registry.size(entry.digest) is not None:
                if not ours or not check_hmac(entry, self._key):
                    self._learn(diff_id, entry.digest)
                return entry.digest, looked
            if ours:
                self._forget(entry)
        return None, looked

    def _learn(self, diff_id: DiffID, digest: str) -> None:
        self._metadata.tag_and_add(diff_id, self._key, V2Metadata(digest, self.target.name))

    def _forget_source(self, candidate: V2Metadata, answer: httpx.Response) -> None:
        """Forget where a blob could not be mounted from, unless that may be for want of credentials alone."""
        logged_in = self.credentials.registry_token or (self.credentials.username and self.credentials.password)
        if answer.status_code == httpx.codes.UNAUTHORIZED and not logged_in:
            return
        if not candidate.hmac or check_hmac(candidate, self._key):
            self._forget(candidate)

    def _forget(self, entry: V2Metadata) -> None:
        with suppress(NotFoundError):  # another push was first
            self._metadata.remove(entry)

    def _done(self, diff_id: DiffID, descriptor: dict[str, Any], digest: str, how: str) -> dict[str, Any]:
        log.info("%s: %s", diff_id[7:19], how)
        if digest == descriptor["digest"]:
            return descriptor
        beginning = self.registry.beginning(digest)
        compression = next((name for magic, name in MAGICS.items() if beginning.startswith(magic)), "")
        if descriptor["mediaType"].startswith(DOCKER_LAYER):
            media_type = ".".join(filter(None, (DOCKER_LAYER, compression)))
        else:
            media_type = "+".join(filter(None, (OCI_LAYER, compression)))
        return {"mediaType": media_type, "digest": digest, "size": self.registry.size(digest)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("layout", type=Path, help="an OCI layout directory")
    parser.add_argument("target", help="repository and tag, such as localhost:5000/team/app:1.0")
    parser.add_argument("--db", default="layers.db", help="what is known of layers; default: %(default)s")
    parser.add_argument("--image", help="the image of this name (org.opencontainers.image.ref.name) in the layout")
    parser.add_argument("--config", help="Docker's client configuration, for the credentials")
    parser.add_argument("--preserve-digests", action="store_true", help="push the manifest as it is")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        reference = split_reference(options.target)
        target = parse_normalized(reference.name)
        credentials = docker_credentials(target.domain, config=options.config)
        registry = Registry(target, credentials)
        with SQLMetadataStore(options.db) as store:
            pusher = Pusher(registry, store, target, credentials, options.preserve_digests)
            digest = pusher.push(Layout(options.layout, options.image), reference.tag or "latest")
        registry.close()
    except (PushError, LayerstoreError, httpx.HTTPError, OSError, ValueError, KeyError) as error:
        print(f"pusher: {error or type(error).__name__}", file=sys.stderr)
        return 3
    print(f"{target.name}: {digest}, {pusher.uploaded} bytes of layers uploaded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
