"""`list`, `get`, `set`, `delete`: entries as the store has them."""

from __future__ import annotations

import sys

import click

from layerstore.cli.options import Settings, database_option, json_option, settings_argument
from layerstore.cli.output import json_text, print_value, printable
from layerstore.words import utc

_NAMESPACES = ("blob-by-digest", "diffid-by-digest", "v1id", "v2metadata-by-diffid")


class _Namespace(click.ParamType[str]):
    """Any namespace; completion offers those that layerstore knows."""

    name = "namespace"

    def shell_complete(
        self, _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        return [click.shell_completion.CompletionItem(name) for name in _NAMESPACES if name.startswith(incomplete)]


_namespace = click.argument("namespace", type=_Namespace())


@click.command(
    "list",
    epilog="""\b
Examples:
  layerstore list
  layerstore list diffid-by-digest
  layerstore list --json v2metadata-by-diffid | jq -r '.[].key'""",
)
@click.argument("namespace", type=_Namespace(), required=False)
@json_option
@database_option
@settings_argument
def list_(settings: Settings, namespace: str | None, as_json: bool) -> None:
    """List entries.

    All of them, or those of NAMESPACE: when each was modified, how many bytes its value has, its place.
    """
    with settings.reading() as store:
        separator = "["
        for record in store._records(namespace):
            if not as_json:
                place = printable(f"{record.namespace}/{record.key}")
                click.echo(f"{utc(record.modified_at_ns)}  {len(record.value):>6}  {place}")
                continue
            entry = {
                "namespace": record.namespace,
                "key": record.key,
                "value": record.value.decode("utf-8", "backslashreplace"),
                "modified_at_ns": record.modified_at_ns,
            }
            click.echo(f"{separator}\n  {json_text(entry)}", nl=False)
            separator = ","
        if as_json:
            click.echo("[]" if separator == "[" else "\n]")


@click.command(
    epilog="""\b
Example:
  layerstore get diffid-by-digest sha256/203af9ae221c8c35b6a6ec93468aa1da4af5b9ff62cb754f6179b16d0e0efda2"""
)
@_namespace
@click.argument("key")
@database_option
@settings_argument
def get(settings: Settings, namespace: str, key: str) -> None:
    """Print an entry.

    Its bytes as they are; on a terminal, control characters are escaped. Exits with 1 if there is none.
    """
    with settings.reading() as store:
        value = store.get(namespace, key)
    print_value(value)


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
@click.option("--force", is_flag=True, help="Store also what cannot be what its namespace says.")
@database_option
@settings_argument
def set_(settings: Settings, namespace: str, key: str, value: str | None, force: bool) -> None:
    """Store an entry.

    VALUE, or the bytes of standard input, in place of what was there.
    """
    from layerstore.store import check_key

    data = sys.stdin.buffer.read() if value is None or value == "-" else value.encode("utf-8", "surrogateescape")
    check_key(namespace, key)
    if not force and namespace in _NAMESPACES:
        _refuse_unreadable(namespace, key, data)
    with settings.writing(create=True) as store:
        store.set(namespace, key, data)


def _refuse_unreadable(namespace: str, key: str, value: bytes) -> None:
    from layerstore.errors import InvalidInputError
    from layerstore.records import why_unreadable

    reason = why_unreadable(namespace, key, value)
    if reason is not None:
        raise InvalidInputError(f"{namespace}/{key}: {reason}: nothing was stored; --force stores it all the same")


@click.command(
    epilog="""\b
Example:
  layerstore delete diffid-by-digest sha256/203af9ae221c8c35b6a6ec93468aa1da4af5b9ff62cb754f6179b16d0e0efda2"""
)
@_namespace
@click.argument("key")
@database_option
@settings_argument
def delete(settings: Settings, namespace: str, key: str) -> None:
    """Remove an entry.

    Exits with 1 if there is none.
    """
    with settings.writing() as store:
        store.delete(namespace, key)
