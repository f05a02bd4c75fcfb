"""A host with a Docker daemon of its own: its data root, its client, and what they print."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.engines.processes import DEADLINE_S, environment, program, running, tail

DRIVER = "vfs"
"""The one graph driver that needs nothing of the kernel."""


class Association(NamedTuple):
    """One entry of a layer's list."""

    diff_id: str
    digest: str
    source_repository: str
    hmac: str


class Host:
    """A data root, and a daemon on it while `running` lasts.

    Args:
        home: where everything lies; it is made.
        sockets: a directory with a short name: a socket's path has 107 bytes at most.
        containerds_store: keep images in containerd, as Docker 29 does by default; since release 23.
    """

    def __init__(self, home: Path, sockets: Path, *, containerds_store: bool = False) -> None:
        self._containerds_store = containerds_store
        self.data_root = home / "data"
        self.distribution = self.data_root / "image" / DRIVER / "distribution"
        self.log = home / "dockerd.log"
        self.client_configuration = home / "config.json"
        self._home = home
        self._sockets = sockets
        self._starts = 0
        self._builds = 0
        home.mkdir()

    @contextmanager
    def running(self, *, exit_code: int = 0) -> Iterator[None]:
        """Run the daemon: it answers when the block begins, and has ended when the block is left, as it should."""
        self._starts += 1
        # A new one each time: a containerd that died with its daemon must not be taken for one that lives.
        self._run = self._sockets / f"{self._home.name}{self._starts}"
        self._run.mkdir()
        configuration = self._home / "daemon.json"
        # Since release 29, a fresh data root is containerd's unless told otherwise.
        configuration.write_text(json.dumps({"features": {"containerd-snapshotter": self._containerds_store}}))
        command: list[object] = [program("dockerd"), "--config-file", configuration, "--debug"]
        command += ["--data-root", self.data_root, "--exec-root", self._run / "exec", "--pidfile", self._run / "pid"]
        command += ["-H", f"unix://{self._run}/docker.sock", "--storage-driver"]
        command += ["native" if self._containerds_store else DRIVER]
        command += ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        # Where the machine has a containerd of its own, dockerd uses that one.
        # containerd allows no two separators beside each other, and a temporary name may have them.
        space = re.sub("[^a-z0-9]+", "-", f"layerstore-{self._sockets.name}-{self._run.name}".lower()).strip("-")
        command += ["--containerd-namespace", space, "--containerd-plugins-namespace", f"{space}-plugins"]
        self.containerd = f"containerd:{self._run}/exec/containerd/containerd.sock?namespace={space}"
        with running(
            command, home=self._home, log=self.log, answers=lambda: self.ask("info")[0] == 0, exit_code=exit_code
        ):
            yield

    def ask(self, *arguments: object) -> tuple[int, str]:
        """Run the client; return its exit code and what it printed."""
        done = subprocess.run(
            [program("docker"), "-H", f"unix://{self._run}/docker.sock", *map(str, arguments)],
            env=environment(self._home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return done.returncode, done.stdout

    def docker(self, *arguments: object) -> str:
        """Run the client, which must do what it is told; return what it printed."""
        code, printed = self.ask(*arguments)
        assert code == 0, f"docker {' '.join(map(str, arguments))}\n{printed}\n{tail(self.log)}"
        return printed

    def make(self, tag: str, sizes: Sequence[int]) -> list[str]:
        """Load an image that has a layer with a file of each size; return the layers' DiffIDs.

        All but a file's first bytes are zeros, so that a push takes less time. `build` would take a second a layer.
        """
        archive = self._home / "made.tar"
        contents = [os.urandom(min(size, 1_000)).ljust(size, b"\0") for size in sizes]
        diff_ids = docker_archive(archive, tag, [layer({f"file{at}": each}) for at, each in enumerate(contents)])
        self.docker("load", "--input", archive)
        archive.unlink()
        return diff_ids

    def build(self, tag: str, size: int, *, base: str) -> list[str]:
        """Build an image with a layer of random bytes on another image; return the DiffIDs of all its layers."""
        self._builds += 1
        context = self._home / f"build{self._builds}"
        context.mkdir()
        (context / "file").write_bytes(os.urandom(size))
        (context / "Dockerfile").write_text(f"FROM {base}\nCOPY file /file-of-{self._builds}\n")
        self.docker("build", "--quiet", "--tag", tag, context)
        return self.layers(tag)

    def layers(self, image: str) -> list[str]:
        """Return the DiffIDs of an image's layers, lowest first."""
        layers: list[str] = json.loads(self.docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
        return layers

    def log_in(self, registry: str, user: str, password: str) -> None:
        """Let the client send credentials, whether or not the registry asks for any."""
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.client_configuration.write_text(json.dumps({"auths": {registry: {"auth": auth}}}))

    def log_out(self) -> None:
        """Let the client send empty credentials, as it does at first."""
        self.client_configuration.write_text("{}")

    def push(self, image: str, name: str | None = None) -> list[str]:
        """Push an image, under another name if told; return what was printed of each layer last, lowest first."""
        if name is not None:
            self.docker("tag", image, name)
        printed = _last_words(self.docker("push", name or image))
        return [printed[_short(diff_id)] for diff_id in self.layers(image)]

    def pull(self, image: str, blobs: Sequence[str]) -> list[str]:
        """Pull an image that has these blobs; return what was printed of each last."""
        printed = _last_words(self.docker("pull", image))
        return [printed[_short(digest)] for digest in blobs]

    def remove(self, image: str) -> None:
        """Remove an image under all its names."""
        self.docker("rmi", "--force", self.docker("image", "inspect", "--format", "{{.Id}}", image).strip())

    def forget(self) -> None:
        """Empty the metadata directory."""
        shutil.rmtree(self.distribution)
        self.distribution.mkdir(mode=0o700)

    def list_file(self, diff_id: str) -> Path:
        """Return the file of a layer's list."""
        return self.distribution / "v2metadata-by-diffid" / diff_id.replace(":", "/")

    def mapping_file(self, digest: str) -> Path:
        """Return the file that says which layer a blob is."""
        return self.distribution / "diffid-by-digest" / digest.replace(":", "/")

    def associations(self) -> set[Association]:
        """Return what all lists say together."""
        return {
            Association(f"sha256:{file.name}", entry["Digest"], entry["SourceRepository"], entry["HMAC"])
            for file in (self.distribution / "v2metadata-by-diffid" / "sha256").glob("[!.]*")
            for entry in json.loads(file.read_bytes())
        }

    def mappings(self) -> set[tuple[str, str]]:
        """Return which layer (second) each blob (first) is."""
        files = (self.distribution / "diffid-by-digest" / "sha256").glob("[!.]*")
        return {(f"sha256:{file.name}", file.read_text()) for file in files}


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _last_words(printed: str) -> dict[str, str]:
    """Return the last status of each layer in what `docker push` or `docker pull` printed."""
    return dict(re.findall(r"^([0-9a-f]{12}): (.+)$", printed, re.MULTILINE))


def docker_archive(path: Path, tag: str, layers: Sequence[bytes]) -> list[str]:
    """Write an image as `docker save` does; return the DiffIDs of its layers."""
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    name = tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"
    parts = {f"{number}.tar": content for number, content in enumerate(layers)}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": list(parts)}]
    files = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    path.write_bytes(layer({**files, **parts}))
    return diff_ids


def layer(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of files."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()
