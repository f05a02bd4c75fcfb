"""`candidates` and `plan`: what a push would do, and why."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import click

from layerstore.cli.options import PATH, Settings, data_root_options, offer_known, shared
from layerstore.cli.output import columns, fail, print_json, printable, say
from layerstore.paths import absolute, status
from layerstore.sql.url import is_url
from layerstore.words import counted

if TYPE_CHECKING:
    from layerstore import FSMetadataStore, Image, PushPlan, SQLMetadataStore

_config_option = click.option(
    "--config",
    metavar="PATH",
    type=PATH,
    help="Docker's client configuration, or its directory. Default: $DOCKER_CONFIG, else ~/.docker. Only a key is"
    " computed from the credentials for the target's registry.",
)


@click.command(
    epilog="""\b
Examples:
  layerstore candidates 15a6e8a8ae10 localhost:5000/new/app
  layerstore candidates --size 20000000 15a6e8a8ae10 busybox --json"""
)
@click.argument("diff_id", metavar="DIFFID", shell_complete=offer_known)
@click.argument("target", shell_complete=offer_known)
@click.option(
    "--size",
    metavar="BYTES",
    type=click.IntRange(min=0),
    help="Of the layer's files, uncompressed: a larger layer is worth more questions. Default: as for"
    " 100 KiB to 10 MiB.",
)
@click.option(
    "--engine",
    type=click.Choice(["docker", "containerd", "containers"]),
    default="docker",
    show_default=True,
    help="Whose rule: Docker's with a storage driver; containerd's, as of Docker with containerd's store and nerdctl;"
    " or that of Podman, Skopeo, Buildah and CRI-O.",
)
@_config_option
@shared("json", "database")
def candidates(
    settings: Settings,
    /,
    *,
    diff_id: str,
    target: str,
    size: int | None,
    engine: str,
    config: str | None,
    as_json: bool,
) -> int:
    """Explain from which repositories a push would mount a layer.

    Prints what Docker's push of the layer DIFFID to the repository TARGET would ask the registry, in order, with
    reasons, and which associations it would leave out. 12 or more hex digits of DIFFID are enough. TARGET may leave out
    docker.io/library/. No registry is asked. Exits with 1 if there is nothing to ask.
    """
    from layerstore.push.layers import document, engine_candidates, known_layers, layer_candidates, unused
    from layerstore.repository import parse_reference

    repository = parse_reference(target)
    with settings.reading() as store:
        whole, reason = _whole(store, diff_id, settings.shown)
        if whole is None:
            return fail(reason, 1)
        if engine == "docker":
            hmac_key = _hmac_key(repository.domain, config)
            found = document(layer_candidates(store, whole, repository.name, hmac_key=hmac_key, size=size))
        else:
            known = known_layers(store, [whole])[whole]
            found = {"diff_id": whole, "target_repository": repository.name, "engine": engine}
            found["steps"] = [dataclasses.asdict(step) for step in engine_candidates(known, repository.name, engine)]
            found["unused"] = unused(known, engine)
    if as_json:
        print_json(found)
    else:
        _say_candidates(found)
    return 0 if found["steps"] else 1


@click.command(
    epilog="""\b
Examples:
  layerstore plan team/app localhost:5000/team/app --data-root /var/lib/docker
  layerstore plan team/app localhost:5000/team/app --data-root /var/lib/docker --as-daemon
  layerstore plan 4ab179cadfdc docker.io/team/app --data-root /var/lib/docker --driver overlay2 --json"""
)
@click.argument("image")
@click.argument("target", shell_complete=offer_known)
@data_root_options(required=True)
@click.option(
    "--as-daemon",
    is_flag=True,
    help="Use the metadata in the data root, as its daemon does, and not the database. The default without a database.",
)
@_config_option
@shared("json", "database")
def plan(
    settings: Settings,
    /,
    *,
    image: str,
    target: str,
    data_root: str,
    driver: str | None,
    as_daemon: bool,
    config: str | None,
    as_json: bool,
) -> int:
    """Predict a push of an image, layer by layer.

    IMAGE is a name or ID in the data root, and TARGET the repository to push to. Prints which layers TARGET has
    already, which are mounted and from which repository, and which are uploaded. No registry is asked, so what the
    registry has lost, or received from other clients, cannot be known. Sizes are those of the files, uncompressed.
    Exits with 1 if there is no such image.
    """
    from layerstore import find_image, layer_sizes, plan_push
    from layerstore.repository import parse_reference

    repository = parse_reference(target)
    found = find_image(data_root, image, driver=driver)
    layers = list(zip(found.diff_ids, layer_sizes(found), strict=True))
    if not as_daemon and not is_url(settings.path) and status(absolute(settings.path)) is None:
        click.echo(printable(f"layerstore: no database {settings.path}: using the data root's metadata"), err=True)
        as_daemon = True
    with _metadata_of(found) if as_daemon else settings.reading() as store:
        planned = plan_push(store, layers, repository.name, hmac_key=_hmac_key(repository.domain, config))
    if as_json:
        print_json(_plan_json(found, planned))
    else:
        _say_plan(found, planned)
    return 0


def _whole(store: SQLMetadataStore, text: str, path: str) -> tuple[str | None, str]:
    """Return the layer that hex digits begin, and any other text as it is; or `None`, and why there is no layer."""
    from layerstore.digest import is_digest
    from layerstore.sql.reading.layers import Blob, Layer
    from layerstore.sql.reading.search import look_up

    if not (is_digest(text) or re.fullmatch(r"(?:sha(?:256|384|512):)?[0-9a-f]+", text)):
        return text, ""
    found = look_up(store, text)
    for one in found:
        if isinstance(one, Layer):
            return one.diff_id, ""
    if is_digest(text) and not found:
        return text, ""
    for one in found:
        if isinstance(one, Blob) and one.diff_id is not None:
            return None, f"{text} is a blob, not a layer: give its layer, {one.diff_id}"
    return None, f"no layer is known that begins with {text!r} in {path}"


def _metadata_of(image: Image) -> FSMetadataStore | SQLMetadataStore:
    from layerstore import FSMetadataStore, SQLMetadataStore
    from layerstore.docker.images import metadata_directory

    directory = metadata_directory(image)
    # Opening the files would make the directory that is not there yet.
    return SQLMetadataStore(":memory:") if directory is None else FSMetadataStore(directory)


def _hmac_key(registry: str, config: str | None) -> bytes | None:
    from layerstore import compute_hmac_key, docker_credentials

    return compute_hmac_key(docker_credentials(registry, config=config))


def _say_candidates(found: dict[str, Any]) -> None:
    engine = found.get("engine")
    say(f"layer {found['diff_id']} to {found['target_repository']}{f', by {engine}' if engine else ''}")
    if not engine:
        mounts, checks, others = found["attempts"].values()
        size = "unknown size" if found["size"] is None else f"{found['size']:,} bytes"
        say(
            f"  {size}: 1 check, then mounts (at most {mounts}), then checks (at most {checks} in all,"
            f" with digests of {'any repository' if others else 'the target'})"
        )
    if found["steps"]:
        if not engine:
            say("  asked in this order, until one succeeds:")
        columns([_step(f"{number}", step) for number, step in enumerate(found["steps"], 1)], indent="    ")
    else:
        say("  nothing to ask: the layer would be uploaded")
    if found.get("left_out"):
        say("  left out:")
        columns([_step("-", one) for one in found["left_out"]], indent="    ")
    for name, said in (
        ("unlisted", "blobs of this layer that are not in its list, so that Docker does not look for them:"),
        ("unused", "never used, as their compression is not known:"),
    ):
        if found.get(name):
            say(f"  {said}")
            columns([(digest,) for digest in found[name]], indent="    ")


def _step(number: str, step: dict[str, str]) -> tuple[str, ...]:
    action, digest, source, reason = step.values()
    return (number, action, digest, source or "(unknown repository)", reason)


def _plan_json(image: Image, planned: PushPlan) -> object:
    return {
        "image_id": image.image_id,
        "driver": image.driver,
        **dataclasses.asdict(planned),
        "totals": {
            action: dict(zip(("layers", "bytes"), planned.total(action), strict=True))
            for action in ("exists", "mount", "upload")
        },
    }


def _say_plan(image: Image, planned: PushPlan) -> None:
    say(f"image {image.image_id} ({image.driver}) to {planned.target_repository}")
    rows = [
        (
            f"{number}",
            layer.diff_id,
            f"{layer.size:,}".rjust(max(len(f"{one.size:,}") for one in planned.layers)),
            layer.action + (f" from {layer.source_repository}" if layer.source_repository else ""),
            layer.reason,
        )
        for number, layer in enumerate(planned.layers, 1)
    ]
    if rows:
        columns(rows, indent="  ")
    totals = [(action, *planned.total(action)) for action in ("exists", "mount", "upload")]
    say("; ".join(f"{action} {counted(count, 'layer')}, {size:,} bytes" for action, count, size in totals))
