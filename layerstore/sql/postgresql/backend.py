"""PostgreSQL as what `SQLMetadataStore` is kept in: `layerstore.sql.backend.Backend` on one database.

Each call says how many round trips it takes. A row is the lock of its entry: writers of other entries do not wait.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal

from layerstore.collection import Doomed, Incoming, Loaded, Note, Place, Resolve
from layerstore.digest import DiffID
from layerstore.errors import StoreBusyError, StoreError, StoreReadOnlyError
from layerstore.keys import Record, digest_key
from layerstore.sql.backend import Known, Parameters, Quarantined
from layerstore.sql.postgresql import opening, statements, writing
from layerstore.sql.postgresql.errors import FailedError, mapping
from layerstore.sql.postgresql.sessions import Session
from layerstore.sql.postgresql.snapshot import Snapshot, data, number, text
from layerstore.sql.postgresql.statements import Call, array
from layerstore.sql.postgresql.transactions import Transaction, Transactions
from layerstore.store import Address, Change, Compute, SetAside

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult
    from sqlalchemy import Engine

_AGAIN: Final = ("23505", "40001", "40P01")
"""Another writer added what was absent, or two waited for each other: what was computed is computed again."""
_TRIES: Final = 100


_ADDRESS: Final = itemgetter(0, 1)

_named = re.compile(r"(?<![:\w]):([a-z_]\w*)")


def _said(statement: str) -> bytes:
    """Return a statement in PostgreSQL's words, with parameters as psycopg has them."""
    own = statement.replace("instr(", "strpos(").replace("CAST(value AS BLOB)", "value").replace("%", "%%")
    return _named.sub(r"%(\1)s", own).encode()


class PostgreSQL:
    """One database on a server.

    Args:
        url: where it is.
        durability: `"full"` waits for the disk at each commit; `"normal"` does not (`synchronous_commit = off`).
        read_only: open only to read.
        timeout_s: seconds that a writer waits for the others.

    Attributes:
        shown: what errors call the store: the URL without its password.
    """

    def __init__(self, url: str, *, durability: Literal["full", "normal"], read_only: bool, timeout_s: float) -> None:
        self._sessions = opening.sessions_of(url, read_only=read_only)
        self._transactions = Transactions(self._sessions, durable=durability == "full", timeout_s=timeout_s)
        self._read_only = read_only
        self._engine: Engine | None = None
        self.shown = self._sessions.shown
        try:
            opening.make_ready(self._sessions)
        except BaseException:
            self._sessions.close()
            raise

    @property
    def closed(self) -> bool:
        return self._sessions.closed

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            from sqlalchemy import create_engine

            engine = create_engine(
                "postgresql+psycopg://", creator=lambda: self._sessions.connect(autocommit=False), pool_pre_ping=True
            )
            self._engine = engine.execution_options(postgresql_readonly=True) if self._read_only else engine
        return self._engine

    def run(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        own = self._transactions.own()
        with self._failing():
            if own is not None:
                return own.connection.execute(_said(statement), parameters).fetchall()
            with self._sessions.session(sure=True) as session:
                return session.connection.execute(_said(statement), parameters).fetchall()

    def stream(self, statement: str, parameters: Parameters = ()) -> Iterator[Any]:
        own = self._transactions.own()
        assert own is not None, "only inside a transaction"
        return Snapshot(own, self._failing).stream(_said(statement).decode(), parameters)

    def _first(self, statement: statements.Statement, *parameters: statements.Parameter) -> PGresult:
        """Run a lookup, by one round trip. One on a session that the server has ended is tried once more."""
        sessions = self._sessions
        try:
            own = self._transactions.own()
            if own is not None:
                return own.first(statement, parameters)
            session = sessions.take()
            try:
                return session.first(statement, parameters)
            except FailedError as error:
                if not error.lost or sessions.closed:
                    raise
            finally:
                sessions.give_back(session)
            sessions.forget_idle()
            session = sessions.take()
            try:
                return session.first(statement, parameters)
            finally:
                sessions.give_back(session)
        except FailedError as error:
            raise sessions.error(error) from error

    def get(self, namespace: str, key: str) -> bytes | None:
        found = self._first(statements.GET, namespace, key)
        return found.get_value(0, 0) if found.ntuples else None

    def get_record(self, namespace: str, key: str) -> Record | None:
        found = self._first(statements.GET_RECORDS, namespace, array([key]))
        return Record(namespace, key, data(found, 0, 2), number(found, 0, 3)) if found.ntuples else None

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        found = self._first(statements.GET_MANY, namespace, array(keys))
        return {text(found, row, 0): data(found, row, 1) for row in range(found.ntuples)}

    def known_layers(self, diff_ids: Iterable[DiffID]) -> Known:
        wanted = list(dict.fromkeys(diff_ids))
        found = self._first(statements.KNOWN_LAYERS, array(map(digest_key, wanted)), array(wanted))
        return Known.of(
            (
                text(found, row, 0),
                found.get_value(row, 1),
                None if found.get_value(row, 2) is None else text(found, row, 2),
            )
            for row in range(found.ntuples)
        )

    def change(self, addresses: Sequence[Address], compute: Compute) -> Change:
        """One trip to read, and one more for each time that `compute` asks for more; one to write and commit."""
        self._refuse_read_only()
        own = self._transactions.own()
        if own is not None:
            with self._failing():
                return self._change(own, addresses, compute)
        lost = False
        for attempt in range(_TRIES):
            session = self._sessions.take(sure=True)
            writing_now: list[bool] = []
            try:
                begin = self._transactions.begin(session)
                return self._change(session, addresses, compute, begin=begin, writing_now=writing_now)
            except FailedError as error:
                if error.lost and not writing_now and not lost:
                    lost = True  # nothing was written: on another session it can be done as if nothing had happened
                    self._sessions.forget_idle()
                elif error.state not in _AGAIN or attempt == _TRIES - 1:
                    raise self._sessions.error(error) from error
            finally:
                session.roll_back()
                self._sessions.give_back(session)
        raise StoreBusyError("other writers were faster each time: try again", self.shown)

    def _change(
        self,
        session: Session,
        addresses: Sequence[Address],
        compute: Compute,
        *,
        begin: Sequence[Call] = (),
        writing_now: list[bool] | None = None,
    ) -> Change:
        """Read, compute and write; with `begin`, in a transaction that is committed in the last trip.

        `writing_now` is filled when it is sent: from then on, a lost connection leaves it open what was written.
        """
        commit: list[Call] = [(statements.COMMIT, ())] if begin else []
        found: dict[Address, bytes] = {}
        asked: set[Address] = set()
        while True:
            # In one order, here and below: two changes that lock each other's entries would wait for each other.
            ordered = sorted(addresses)
            gets: list[Call] = [(statements.GET_TO_CHANGE, address) for address in ordered]
            results = session.trip([*begin, *gets])[len(begin) :]
            found.update((one, data(row, 0, 0)) for one, row in zip(ordered, results, strict=True) if row.ntuples)
            asked.update(addresses)
            begin = []
            wanted = compute(found)
            if not wanted.more:
                break
            addresses, compute = wanted.more, wanted.then or compute
        now = time.time_ns()
        calls = writing.setting_aside(wanted.aside)
        for write in sorted(wanted.writes, key=_ADDRESS):
            address = write[:2]
            calls += writing.changing(write, now, found.get(address), was_read=address in asked)
        if writing_now is not None:
            writing_now.append(True)
        if calls or commit:
            session.trip([*calls, *commit])
        return wanted

    def _write(self, calls: Sequence[Call]) -> list[PGresult]:
        """Run calls that write in one transaction: one round trip, or those of a savepoint in the one around."""
        self._refuse_read_only()
        own = self._transactions.own()
        if own is not None:
            with self._failing():
                return own.trip(calls)
        with self._sessions.session(sure=True) as session:
            begin = self._transactions.begin(session)
            for _ in range(_TRIES):
                try:
                    return session.trip([*begin, *calls, (statements.COMMIT, ())])[len(begin) : -1]
                except FailedError as error:
                    if error.state not in _AGAIN:
                        raise
                    session.roll_back()
        raise StoreBusyError("other writers were faster each time: try again", self.shown)

    def put(self, record: tuple[str, str, bytes, int | None]) -> None:
        """One round trip."""
        self._write(writing.put(record))

    def write(self, records: Iterable[tuple[str, str, bytes, int | None]]) -> None:
        self._refuse_read_only()
        with self._transactions.together() as session:
            for record in records:
                session.trip(writing.put(record))

    def delete(self, namespace: str, key: str) -> bool:
        """One round trip."""
        return bool(self._write(writing.delete(namespace, key))[0].command_tuples)

    def remove(self, doomed: Iterable[Doomed]) -> list[int]:
        self._refuse_read_only()
        with self._transactions.together() as session:
            return [at for at, one in enumerate(doomed) if not writing.remove(session, one)]

    def mend(self, kind: str, place: Place) -> bool:
        match kind, place:
            case "stale-rows", (str(namespace), str(name)):
                with self._transactions.together() as session:
                    writing.rederive(session, namespace, name)
                return True
        return False

    def load(self, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
        from layerstore.sql.postgresql.load import load  # lookups need not wait for it

        self._refuse_read_only()
        if self.is_held:
            with self._transactions.together() as session:
                return load(session, incoming, resolve, is_held=True)
        with self._sessions.session(sure=True) as session:
            session.trip(self._transactions.begin_long())
            done = load(session, incoming, resolve, is_held=False)
            session.trip([(statements.COMMIT, ())])
            return done

    @property
    def is_held(self) -> bool:
        return self._transactions.is_held

    def transaction(self, *, deferred: bool = False) -> Transaction:
        if not deferred:
            self._refuse_read_only()
        return self._transactions.transaction(deferred=deferred)

    @contextmanager
    def snapshot(self, _note: Note | None = None) -> Iterator[Snapshot]:
        """A server that finds a database damaged reads nothing more of it."""
        own = self._transactions.own()
        if own is not None:
            yield Snapshot(own, self._failing)
            return
        session = self._sessions.take(sure=True)
        try:
            with self._failing():
                session.trip(self._transactions.begin_long(statements.BEGIN_READING))
            yield Snapshot(session, self._failing)
        finally:
            session.roll_back()
            self._sessions.give_back(session)

    def _failing(self) -> AbstractContextManager[None]:
        return mapping(self.shown, read_only=self._read_only)

    def set_aside(self, entries: Iterable[SetAside], *, at_ns: int | None = None) -> int:
        calls = writing.setting_aside(entries, at_ns=at_ns)
        return sum(result.command_tuples or 0 for result in self._write(calls))

    def quarantined(self, number_: int | None = None) -> list[Quarantined]:
        found = (
            self._first(statements.QUARANTINED)
            if number_ is None
            else self._first(statements.ONE_QUARANTINED, str(number_))
        )
        return [
            Quarantined(
                number(found, row, 0),
                text(found, row, 1),
                text(found, row, 2),
                data(found, row, 3),
                text(found, row, 4),
                number(found, row, 5),
            )
            for row in range(found.ntuples)
        ]

    def drop_quarantined(self, numbers: Iterable[int]) -> None:
        self._write([writing.drop_quarantined(numbers)])

    def refuse_foreign_schema(self) -> None:
        """Opening has looked at whose it is; triggers on a server are its owner's matter."""

    def size(self) -> tuple[int, int]:
        return number(self._first(statements.SIZE)), 0

    def free_bytes(self, *, vacuum: bool) -> None:
        """PostgreSQL frees by itself (autovacuum)."""

    def backup(self, path: str | os.PathLike[str]) -> int:
        raise StoreError(
            "a database on a server is backed up by `pg_dump`, or copied to a file: `layerstore --db FILE import URL`",
            self.shown,
        )

    def close(self) -> None:
        self._sessions.close()
        self._transactions.abandon()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def _refuse_read_only(self) -> None:
        if self._read_only:
            raise StoreReadOnlyError("it was opened read_only: open it again without read_only to write", self.shown)
