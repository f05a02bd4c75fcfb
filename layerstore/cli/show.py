"""`show`: everything that is known about one thing, as a person wants to read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from layerstore.cli.options import Settings, data_root_options, offer_known, shared
from layerstore.cli.output import columns, fail, print_json, say
from layerstore.words import counted, utc

if TYPE_CHECKING:
    from layerstore.sql.reading.layers import Association, Blob, KnownBlob, Layer, V1Image
    from layerstore.sql.reading.search import Found, Held, Repository

_ASSOCIATION = ("diff_id", "digest", "source_repository", "hmac")


@click.command(
    epilog="""\b
Examples:
  layerstore show sha256:203af9ae221c8c35b6a6ec93468aa1da4af5b9ff62cb754f6179b16d0e0efda2
  layerstore show 203af9ae221c
  layerstore show localhost:5000/team/app
  layerstore show team/app:1.0 --data-root /var/lib/docker"""
)
@click.argument("what", shell_complete=offer_known)
@data_root_options(required=False)
@shared("json", "database")
def show(settings: Settings, /, *, what: str, data_root: str | None, driver: str | None, as_json: bool) -> int:
    """Show what is known about a layer, blob, repository or image.

    WHAT is a digest, a DiffID or a V1 image ID; the first 12 or more hex digits of one; a repository, or any part of
    the names of several, such as a registry. With --data-root it is the name or ID of an image in the data root, and
    its layers are shown, the lowest first. Exits with 1 if nothing is known.
    """
    if data_root is not None:
        return _show_image(settings, what, data_root, driver, as_json)
    if driver is not None:
        raise click.UsageError("--driver goes with --data-root")
    from layerstore.sql.reading.search import look_up

    with settings.reading() as store:
        found = look_up(store, what)
    if as_json:
        print_json([{"kind": type(one).__name__.removeprefix("Listed").lower(), **_document(one)} for one in found])
    else:
        _show(found)
    return 0 if found else fail(f"nothing is known about {what!r} in {settings.path}", 1)


def _show(found: Sequence[Found]) -> None:
    from layerstore.sql.reading.search import MOST, ListedRepository

    several = [
        (one.source_repository, counted(one.layers, "layer")) for one in found if isinstance(one, ListedRepository)
    ]
    if several:
        more = "or more " if len(several) == MOST else ""
        say(f"{len(several)} {more}repositories have this in their names; `show` one of them:")
        columns(several, indent="  ")
        return
    for number, one in enumerate(found):
        if number:
            say()
        _SHOWN[type(one).__name__](one)


def _show_image(settings: Settings, name: str, data_root: str, driver: str | None, as_json: bool) -> int:
    from layerstore.docker.images import find_image
    from layerstore.sql.reading.layers import layer as layer_of

    image = find_image(data_root, name, driver=driver)
    with settings.reading() as store:
        found = {diff_id: layer_of(store, diff_id, most=None) for diff_id in dict.fromkeys(image.diff_ids)}
    if as_json:
        layers = [
            {"diff_id": diff_id, "known": layer is not None, **(_document(layer) if layer else {})}
            for diff_id, layer in found.items()
        ]
        print_json([{"kind": "image", "image_id": image.image_id, "driver": image.driver, "layers": layers}])
    else:
        say(f"image {image.image_id} ({image.driver}) has {counted(len(found), 'layer')}")
        for diff_id, layer in found.items():
            say()
            if layer is None:
                say(f"layer {diff_id}")
                say("  nothing is known about it")
            else:
                _show_layer(layer)
    return 0 if any(found.values()) else 1


def _document(found: Found) -> dict[str, Any]:
    """Return what JSON has: of a layer's digests the names, of a repository the associations."""
    data = dataclasses.asdict(found)
    if "digests" in data:
        data["digests"] = sorted(one["digest"] for one in data["digests"])
    if "held" in data:
        name = data["source_repository"]
        data = {"source_repository": name, "associations": [{**one, "source_repository": name} for one in data["held"]]}
    if "associations" in data:
        data["associations"] = [{name: one[name] for name in _ASSOCIATION} for one in data["associations"]]
    return data


def _show_layer(layer: Layer) -> None:
    say(f"layer {layer.diff_id}")
    say(f"  list modified {utc(layer.modified_at_ns)}" if layer.modified_at_ns is not None else "  no list")
    if layer.unreadable is not None:
        say(f"  its list cannot be read: {layer.unreadable}")
    if layer.associations:
        say(f"  available from, the newest first ({len(layer.associations)}):")
        columns([(_repository(a), a.digest, _credentials(a)) for a in layer.associations], indent="    ")
    listed = {association.digest for association in layer.associations}
    unlisted = sorted(one.digest for one in layer.digests if one.digest not in listed)
    if unlisted:
        say(f"  blobs of this layer that are not in its list ({len(unlisted)}):")
        columns([(digest,) for digest in unlisted], indent="    ")
    for known in layer.blobs:
        say(f"  other engines know it as {known.digest} ({known.compression or 'compression not known'}):")
        _show_locations(known)
    if layer.v1_ids:
        say(f"  {'V1 image' if len(layer.v1_ids) == 1 else 'V1 images'}:")
        columns([(v1_id, f"at {registry}") for registry, v1_id in layer.v1_ids], indent="    ")


def _show_blob(blob: Blob) -> None:
    say(f"blob {blob.digest}")
    known = blob.known
    diff_id = blob.diff_id or (known and known.diff_id)
    say(f"  is layer {diff_id}" if diff_id else "  maps to no layer")
    if blob.associations:
        say(f"  available from ({len(blob.associations)}):")
        columns(
            [
                (_repository(a), _credentials(a), "" if a.diff_id == blob.diff_id else f"in the list of {a.diff_id}")
                for a in blob.associations
            ],
            indent="    ",
        )

    if known is not None:
        say(f"  other engines know it ({known.compression or 'compression not known'}):")
        for field, values in known.conflicts:
            say(f"    sources disagree: {field} is {' or '.join(values)}")
        _show_locations(known)


def _show_locations(known: KnownBlob) -> None:
    columns(
        [
            (at.source_repository, f"seen {utc(at.seen_at_ns)}" if at.seen_at_ns is not None else "")
            for at in known.locations
        ],
        indent="    ",
    )


def _show_v1_image(image: V1Image) -> None:
    say(f"V1 image {image.v1_id}")
    columns([(f"at {registry}", f"is layer {diff_id}") for registry, diff_id in image.layers], indent="  ")


def _show_repository(repository: Repository) -> None:
    say(f"repository {repository.source_repository}")
    layers, associations = counted(repository.layers, "layer"), counted(repository.associations, "association")
    say(f"  has {layers} in {associations} (layer, blob):")
    columns([(held.diff_id, held.digest, _credentials(held)) for held in repository.held], indent="    ")
    if repository.located:
        say("  other engines have seen there (blob, layer):")
        columns([(one.digest, one.diff_id or "layer not known") for one in repository.located], indent="    ")


def _repository(association: Association) -> str:
    return association.source_repository or "(unknown repository)"


def _credentials(association: Association | Held) -> str:
    """Say whether an association is tied to credentials; the HMAC itself tells a person nothing."""
    return f"HMAC {association.hmac[:8]}…" if association.hmac else "no HMAC"


_SHOWN: dict[str, Callable[[Any], None]] = {
    "Layer": _show_layer,
    "Blob": _show_blob,
    "V1Image": _show_v1_image,
    "Repository": _show_repository,
}
"""By the class of what was found, which is not loaded before there is something to show."""
