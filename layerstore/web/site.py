"""The store that is shown, with all that its pages ask: counts, checks, and work that must not hold up the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from layerstore.sql.store import SQLMetadataStore
from layerstore.web.checks import Checks, CheckState
from layerstore.web.counts import Counted, Counts

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Site:
    """A store, opened to read only."""

    def __init__(self, store: SQLMetadataStore, *, source: str | None = None, verify: bool = True) -> None:
        """Begin to count and to check.

        Args:
            store: what is shown.
            source: the directory that it was imported from, if it was made for being shown.
            verify: run `verify` in the background.
        """
        assert store.path is not None, "other processes and connections must reach it"
        self.store = store
        self.path = store.path
        self.source = source
        self.checks = Checks(store.path, enabled=verify)
        self._counts = Counts(store, self.checks.look)
        self._counts.current(0)

    async def ask(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what reads the store in a thread."""
        return await asyncio.to_thread(function, *args, **kwargs)

    async def glance(self) -> tuple[Counted, CheckState]:
        """Return the counts, fresh ones if they take no longer than a page may wait, and what `verify` found last."""
        counted = await asyncio.to_thread(self._counts.current)
        return counted, self.checks.state()

    def stop(self) -> None:
        """End what runs in the background."""
        self._counts.stop()
        self.checks.stop()
