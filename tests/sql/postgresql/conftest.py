"""Stores behind a proxy, and databases of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import postgresql


@pytest.fixture
def schema(postgresql_server: postgresql.Server) -> Iterator[str]:
    """The name of an empty schema."""
    name = postgresql.new_schema(postgresql_server)
    yield name
    postgresql.drop_schema(postgresql_server, name)


@pytest.fixture
def proxy(postgresql_server: postgresql.Server) -> Iterator[postgresql.Proxy]:
    one = postgresql.Proxy(postgresql_server)
    yield one
    one.close()
