"""Hosts with other engines than Docker: a containerd of one's own, and Skopeo with a cache of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.engines.processes import DEADLINE_S, environment, program, running


class Skopeo:
    """A host that has Skopeo, and a cache of its own.

    Attributes:
        cache: the folder of the cache.
    """

    def __init__(self, home: Path, skopeo: str) -> None:
        self._home, self._program = home, skopeo
        self.cache = home / "lib" / "containers" / "cache"
        (home / "lib").mkdir(parents=True)

    @property
    def uses_sqlite(self) -> bool:
        """Whether it keeps its cache in SQLite, as releases since 1.14 do."""
        version = self._run("--version").split()[-1]
        return tuple(map(int, version.split(".")[:2])) >= (1, 14)

    def unpack(self, image: str) -> None:
        """Pull an image into the storage of this host."""
        self.copy(f"docker://{image}", "containers-storage:[vfs@/var/lib/storage+/var/lib/storage-run]app:latest")

    def copy(self, source: str, target: str, *options: str) -> str:
        """Copy an image; return what Skopeo says about that in detail."""
        return self._run(
            *(
                "--insecure-policy",
                "--debug",
                "copy",
                "--format=oci",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
            ),
            *options,
            source,
            target,
        )

    def _run(self, *arguments: object) -> str:
        # For root, the cache is below /var/lib whatever the environment says.
        script = 'mount --bind "$1" /var/lib && shift && exec "$@"'
        line = [
            program("unshare"),
            "--mount",
            "sh",
            "-ec",
            script,
            "-",
            self._home / "lib",
            self._program,
            *arguments,
        ]
        done = subprocess.run(
            [str(word) for word in line],
            env=environment(self._home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


class Containerd:
    """A host that has containerd alone.

    Attributes:
        root: where it keeps everything.
        socket: where it answers, while it runs.
    """

    def __init__(self, home: Path, sockets: Path) -> None:
        self._home = home
        self.root = home / "root"
        self.socket = sockets / f"{home.name}.sock"
        home.mkdir()

    @contextmanager
    def running(self) -> Iterator[None]:
        configuration = self._home / "config.toml"
        configuration.write_text(
            f'version = 2\nroot = "{self.root}"\nstate = "{self._home / "state"}"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self.socket}"\n'
            f'[ttrpc]\naddress = "{self.socket}.ttrpc"\n'
        )
        command = [program("containerd"), "--config", configuration]
        with running(command, home=self._home, log=self._home / "log", answers=lambda: self._ask("version")[0] == 0):
            yield

    def ctr(self, *arguments: object) -> str:
        """Run the client; return what it printed."""
        code, printed = self._ask(*arguments)
        assert code == 0, printed
        return printed

    def pull(self, image: str) -> None:
        self.ctr("image", "pull", "--snapshotter", "native", "--plain-http", image)

    def load(self, archive: Path, image: str) -> None:
        """Load an OCI archive, and give its image a name."""
        base = image.rpartition("/")[0]
        self.ctr("image", "import", "--snapshotter", "native", "--base-name", base, "--digests", archive)
        [name] = [name for name in self.ctr("image", "ls", "-q").split() if "@" in name]
        self.ctr("image", "tag", name, image)

    def push(self, image: str) -> None:
        self.ctr("image", "push", "--plain-http", image)

    def forget(self) -> None:
        """Remove all images, and wait until their content is collected."""
        for name in self.ctr("image", "ls", "-q").split():
            self.ctr("image", "rm", "--sync", name)
        assert self.ctr("content", "ls", "-q").split() == []

    def _ask(self, *arguments: object) -> tuple[int, str]:
        done = subprocess.run(
            [program("ctr"), "--address", str(self.socket), *map(str, arguments)],
            env=environment(self._home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return done.returncode, done.stdout
