"""What completion offers beside commands and options: what the database or the schema has."""

from __future__ import annotations

from click import Context, Parameter
from click.shell_completion import CompletionItem

from layerstore.cli.options import Settings
from layerstore.errors import LayerstoreError


def known(context: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer repositories, or digests once hex digits are typed."""
    from layerstore.sql.reading.search import repositories, search

    try:
        with context.find_root().ensure_object(Settings).reading() as store:
            if not incomplete:
                return [CompletionItem(one.source_repository) for one in repositories(store).repositories]
            return [CompletionItem(one.name) for one in search(store, incomplete) if one.name.startswith(incomplete)]
    except LayerstoreError:
        return []  # without a database there is nothing to offer; the command itself will say why


def revisions(_context: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the revisions of the schema."""
    from layerstore.sql.migrate import history

    return [CompletionItem(one.revision, help=one.doc) for one in history() if one.revision.startswith(incomplete)]
