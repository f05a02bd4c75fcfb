"""`list`, `get`, `set`, `delete`: entries as the store has them."""

from __future__ import annotations

import sys

import click

from layerstore.cli.options import NAMESPACES, Settings, offer_namespaces, shared
from layerstore.cli.output import fail, is_typed, json_text, print_value, printable
from layerstore.errors import InvalidInputError, slash_hint
from layerstore.words import utc

_namespace = click.argument("namespace", shell_complete=offer_namespaces)


@click.command(
    "list",
    epilog="""\b
Examples:
  layerstore list
  layerstore list diffid-by-digest
  layerstore list --json v2metadata-by-diffid | jq -r '.[].key'""",
)
@click.argument("namespace", shell_complete=offer_namespaces, required=False)
@shared("json", "database")
def list_(settings: Settings, namespace: str | None, as_json: bool) -> int:
    """List entries.

    All of them, or those of NAMESPACE: time of modification, bytes of the value, place. Exits with 1 if there is no
    such namespace.
    """
    from layerstore.reports import with_iso_times
    from layerstore.words import near

    is_known = namespace in (None, *NAMESPACES)
    with settings.reading() as store:
        separator = "["
        for record in store._records(namespace):
            is_known = True
            if as_json:
                click.echo(f"{separator}\n  {json_text(with_iso_times(record._asdict()))}", nl=False)
                separator = ","
            else:
                place = printable(f"{record.namespace}/{record.key}")
                click.echo(f"{utc(record.modified_at_ns)}  {len(record.value):>6}  {place}")
        if as_json:
            click.echo("[]" if separator == "[" else "\n]")
    if not is_known:
        return fail(f"no namespace {namespace!r} in {settings.path}{near(str(namespace), NAMESPACES)}", 1)
    return 0


@click.command(
    epilog="""\b
Example:
  layerstore get diffid-by-digest sha256/203af9ae221c8c35b6a6ec93468aa1da4af5b9ff62cb754f6179b16d0e0efda2"""
)
@_namespace
@click.argument("key")
@shared("database")
def get(settings: Settings, namespace: str, key: str) -> None:
    """Print an entry.

    Its bytes as they are; on a terminal, control characters are escaped. Exits with 1 if there is none.
    """
    with settings.reading() as store:
        value = store.get(namespace, key)
    print_value(value)
    if not value and is_typed(sys.stdout):
        click.echo("layerstore: the value is empty", err=True)


@click.command(
    "set",
    epilog="""\b
Examples:
  layerstore set diffid-by-digest sha256/203a… sha256:2fa8…
  layerstore set v2metadata-by-diffid sha256/2fa8… < list.json""",
)
@_namespace
@click.argument("key")
@click.argument("value", required=False)
@click.option("--force", is_flag=True, help="Store the value even if it is invalid for its namespace.")
@shared("timeout", "database")
def set_(settings: Settings, namespace: str, key: str, value: str | None, force: bool) -> None:
    """Store an entry.

    VALUE, or the bytes of standard input, replaces what was there. Without VALUE, standard input must not be a
    terminal.
    """
    if value is None and is_typed(sys.stdin):
        raise click.UsageError(
            "standard input is a terminal: give VALUE, or pipe it into the command; - reads it anyway"
        )
    from layerstore.keys import check_key
    from layerstore.records import why_unreadable

    data = sys.stdin.buffer.read() if value is None or value == "-" else value.encode("utf-8", "surrogateescape")
    check_key(namespace, key)
    reason = None if force or namespace not in NAMESPACES else why_unreadable(namespace, key, data)
    if reason is not None:
        hint = slash_hint(key)
        raise InvalidInputError(f"{namespace}/{key}: {reason}{hint}; nothing was stored (--force stores it anyway)")
    with settings.writing(create=True) as store:
        store.set(namespace, key, data)


@click.command(
    epilog="""\b
Example:
  layerstore delete diffid-by-digest sha256/203af9ae221c8c35b6a6ec93468aa1da4af5b9ff62cb754f6179b16d0e0efda2"""
)
@_namespace
@click.argument("key")
@shared("timeout", "database")
def delete(settings: Settings, namespace: str, key: str) -> None:
    """Remove an entry.

    Exits with 1 if there is none.
    """
    with settings.writing() as store:
        store.delete(namespace, key)
