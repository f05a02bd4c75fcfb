"""Sessions with the server: what is sent and received in one round trip, and those that are idle.

A session is taken for one call or one transaction, so that there are as many as calls at once, not as threads. The hot
path does not go through psycopg's cursor, which costs more than the statement; several statements go out together
and are answered together (libpq's pipeline mode). Waiting for an answer releases the interpreter's lock: one that waits
for a row would else keep the thread from running that holds it.

Source: postgresql.org/docs/15/libpq-pipeline-mode.html.
"""

from __future__ import annotations

import os
import select
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq

from layerstore.errors import StoreClosedError
from layerstore.sql.postgresql import statements
from layerstore.sql.postgresql.errors import FailedError, error_of, failure, unopened
from layerstore.sql.postgresql.statements import Call, Parameter, Statement, encoded

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

KEPT: Final = 10
"""Idle sessions that are kept for the next calls."""

_GOOD: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_inherited: list[object] = []
"""Sessions of the parent's, in a forked child: never closed there, as that would end the parent's."""


class Session:
    """One connection to the server. One thread uses it at a time.

    Attributes:
        connection: the driver's.
        is_own: whether nobody else uses the server's session between our transactions, as behind a pooler: only then
            are statements prepared by name, and settings made once.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.is_own = False
        self._pgconn: PGconn = connection.pgconn
        self._prepared: set[str] = set()
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)

    @property
    def is_idle(self) -> bool:
        """Whether it can serve the next call: it is alive, and in no transaction."""
        return self._pgconn.transaction_status == pq.TransactionStatus.IDLE

    @property
    def is_in_transaction(self) -> bool:
        """Whether a transaction is open on it, and has not failed."""
        return self._pgconn.transaction_status == pq.TransactionStatus.INTRANS

    @property
    def is_open(self) -> bool:
        """Whether the connection is there, as far as is known here."""
        return bool(self._pgconn.status == pq.ConnStatus.OK)

    def is_alive(self) -> bool:
        """Tell whether an idle session is still there; one that the server has ended has something to read."""
        return self.is_open and not self._poll.poll(0)

    def first(self, statement: Statement, parameters: Sequence[Parameter]) -> PGresult:
        """Run one statement, by one round trip; without a transaction around it, it is its own.

        Raises:
            FailedError: the server refused it, or is gone.
        """
        if self.is_own and statement.name not in self._prepared:
            return self.trip([(statement, parameters)])[0]
        values, formats = encoded(parameters)
        try:
            if self.is_own:
                result = self._pgconn.exec_prepared(statement.name.encode(), values, formats, 1)
            else:
                result = self._pgconn.exec_params(statement.text.encode(), values, None, formats, 1)
        except psycopg.Error as error:
            raise self._failed(error) from error
        if result.status not in _GOOD:
            raise self._refused(result)
        return result

    def trip(self, calls: Sequence[Call]) -> list[PGresult]:
        """Send several statements together, and return their results: one round trip.

        None that follows a refused one is run.

        Raises:
            FailedError: the server refused one of them, or is gone.
        """
        ready = [(statement, *encoded(parameters)) for statement, parameters in calls]
        try:
            return self._trip(ready)
        except psycopg.Error as error:
            raise self._failed(error) from error
        except FailedError:
            raise
        except BaseException:
            self.close()  # an interrupt: what the server will answer is nobody's any more
            raise

    def _trip(self, ready: Sequence[tuple[Statement, list[Any], list[int]]]) -> list[PGresult]:
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        asked: list[str | None] = []
        for statement, values, formats in ready:
            if not self.is_own:
                pgconn.send_query_params(statement.text.encode(), values, None, formats, 1)
            else:
                name = statement.name
                if name not in self._prepared and name not in asked:
                    pgconn.send_prepare(name.encode(), statement.text.encode())
                    asked.append(name)
                pgconn.send_query_prepared(name.encode(), values, formats, 1)
            asked.append(None)
        pgconn.pipeline_sync()
        self._flush()
        results: list[PGresult] = []
        refused: PGresult | None = None
        for prepared in asked:
            result = self._next()
            if result.status not in _GOOD:
                refused = refused or result
            elif prepared is not None:
                self._prepared.add(prepared)
            else:
                results.append(result)
        self._next()  # the end of all
        pgconn.exit_pipeline_mode()
        if refused is not None:
            raise self._refused(refused)
        return results

    def _flush(self) -> None:
        while self._pgconn.flush():
            self._poll.modify(self._pgconn.socket, select.POLLIN | select.POLLOUT)
            ready = self._poll.poll()
            self._poll.modify(self._pgconn.socket, select.POLLIN)
            if ready and ready[0][1] & select.POLLIN:
                self._pgconn.consume_input()

    def _next(self) -> PGresult:
        pgconn = self._pgconn
        while True:
            while pgconn.is_busy():
                self._poll.poll()
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is not None:
                return result
            if pgconn.status != pq.ConnStatus.OK:  # else it was the end of the answer before
                raise psycopg.OperationalError("the server closed the connection")

    def _refused(self, result: PGresult) -> FailedError:
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        said = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message or b""
        if self._pgconn.status != pq.ConnStatus.OK or state is None:
            self.close()
            said = result.error_message or said
        return FailedError(
            None if state is None else state.decode(),
            said.decode("utf-8", "replace"),
            lost=self._pgconn.status != pq.ConnStatus.OK,
        )

    def _failed(self, error: psycopg.Error) -> FailedError:
        found = failure(error)
        if self._pgconn.status != pq.ConnStatus.OK or found.state is None:
            self.close()
            found.lost = True
        return found

    def roll_back(self) -> None:
        """End whatever transaction is open; a session that cannot is closed."""
        if self._pgconn.status != pq.ConnStatus.OK or self.is_idle:
            return
        try:
            self.trip([(statements.ROLLBACK, ())])
        except FailedError:
            self.close()

    def close(self) -> None:
        """End the session; the server rolls back what is open on it."""
        self.connection.close()


class Sessions:
    """All sessions of one store.

    Args:
        conninfo: parameters of the connection, as libpq has them.
        shown: what errors call the store.
        pooled: whether there is a pooler before the server, also if it cannot be told.
        read_only: whether the store was opened to read only.

    Attributes:
        settings: what is set in each session that is ours alone.
        closed: whether `close` was called.
        in_use: the sessions that were taken.
    """

    def __init__(self, conninfo: dict[str, Any], shown: str, *, pooled: bool, read_only: bool) -> None:
        self._conninfo = conninfo
        self.shown = shown
        self._pooled = pooled
        self.settings: Sequence[Parameter] = ()
        self.read_only = read_only
        self.closed = False
        self._idle: deque[Session] = deque()
        self.in_use: set[Session] = set()
        self._finalizer = weakref.finalize(self, _close_all, self._idle, os.getpid())
        _everyone.add(self)

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """Make a connection of the driver's, for the caller to close.

        Raises:
            StoreError: the server cannot be reached, or does not let us in.
        """
        if self.closed:
            raise StoreClosedError("this store was closed; make a new SQLMetadataStore", self.shown)
        try:
            return psycopg.connect(autocommit=autocommit, prepare_threshold=None, **self._conninfo)
        except psycopg.Error as error:
            raise unopened(error, self.shown) from None  # its text has all, its traceback the password

    def take(self, *, sure: bool = False) -> Session:
        """Return an idle session, or a new one; with `sure`, one that the server has not ended, as far as is known."""
        try:
            while True:
                session = self._idle.pop()
                if not sure or session.is_alive():
                    break
                session.close()
        except IndexError:
            session = self.new()
        self.in_use.add(session)
        return session

    def new(self) -> Session:
        """Make a session that is given to nobody else."""
        session = Session(self.connect())
        if not self._pooled:
            pid = session.connection.info.backend_pid
            try:
                found = session.first(statements.SETTINGS, (*self.settings, pid))
            except FailedError as error:
                session.close()
                raise self.error(error) from error
            session.is_own = int.from_bytes(found.get_value(0, 0) or b"", "big") == pid
        return session

    def give_back(self, session: Session) -> None:
        """Keep a session for the next call, if it can serve one."""
        self.in_use.discard(session)
        if session.is_idle and len(self._idle) < KEPT:
            self._idle.append(session)
            if self.closed:  # just now, or long ago
                _close_all(self._idle, os.getpid())
        else:
            session.close()

    def forget_idle(self) -> None:
        """Close the idle sessions: the server has ended one, and so most likely all."""
        _close_all(self._idle, os.getpid())

    @contextmanager
    def session(self, *, sure: bool = False) -> Iterator[Session]:
        """Give a session for the body; what fails in it becomes an error of our tree, and ends its transaction."""
        session = self.take(sure=sure)
        try:
            yield session
        except (FailedError, psycopg.Error) as error:
            raise self.error(error) from error
        finally:
            if not session.is_idle:
                session.roll_back()
            self.give_back(session)

    def error(self, error: BaseException) -> Exception:
        """Return the error of our tree for what the server or the driver said."""
        return error_of(failure(error), self.shown, closed=self.closed, read_only=self.read_only)

    def close(self) -> None:
        """Close all sessions; one that another thread is using, as soon as it is given back."""
        self.closed = True
        _close_all(self._idle, os.getpid())

    def after_fork_in_child(self) -> None:
        """Leave the parent's sessions alone."""
        _inherited.extend((*self._idle, *self.in_use))
        self._finalizer.detach()
        self._idle = deque()
        self.in_use = set()
        self._finalizer = weakref.finalize(self, _close_all, self._idle, os.getpid())


def _close_all(idle: deque[Session], pid: int) -> None:
    if pid != os.getpid():
        return
    try:
        while True:
            idle.pop().close()
    except IndexError:
        pass


_everyone: weakref.WeakSet[Sessions] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for sessions in list(_everyone):
        sessions.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
