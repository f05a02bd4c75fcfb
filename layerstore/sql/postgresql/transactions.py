"""Transactions on PostgreSQL: what happens whole or not at all, and to whom it belongs.

`transaction()` locks the table against all other writers from its beginning on, as SQLite's BEGIN IMMEDIATE does, so
that what is read in it is still true when it is written; readers do not wait. It has one session, and belongs to the
asyncio task that began it, or outside of a loop to the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from layerstore.sql.owner import ROLLED_BACK, Owner, inside
from layerstore.sql.postgresql import statements
from layerstore.sql.postgresql.errors import FailedError
from layerstore.sql.postgresql.sessions import Session, Sessions
from layerstore.sql.postgresql.statements import Call, Statement

_PATIENCE: Final = "10s"
"""How long the server waits between the two trips of one change, before it ends a client that has stopped there."""


class Held(Owner):
    """The session of a transaction, and who may use it."""

    def __init__(self, session: Session, sessions: Sessions) -> None:
        super().__init__(sessions, sessions.shown)
        self.session = session
        self._sessions = sessions

    def mine(self) -> Session:
        """Return the session, if whoever asks may use it.

        Raises:
            StoreError: another task's transaction is open in this thread, it is the parent's of a forked process, or
                transactions were left out of order.
        """
        if self.is_parents:
            self.refuse("the transaction around this is the parent process's: leave it, then write again")
        self.check()
        return self.session

    def __del__(self) -> None:
        # Its thread has ended inside the transaction: the other writers need not wait for the store's end.
        if self.open and not self.is_parents:
            self._sessions.in_use.discard(self.session)
            self.session.close()


class _Local(threading.local):
    held: Held | None = None


class Transactions:
    """Who has which session for a transaction, and how one begins.

    Args:
        sessions: where sessions come from.
        durable: whether a commit waits for the disk.
        timeout_s: seconds that a writer waits for the others.
    """

    def __init__(self, sessions: Sessions, *, durable: bool, timeout_s: float) -> None:
        self.sessions = sessions
        self._local = _Local()
        # 0 would be no limit.
        self._settings = f"{max(1, min(round(timeout_s * 1000), 2**31 - 1))}ms", "on" if durable else "off"
        sessions.settings = (*self._settings, _PATIENCE)

    @property
    def is_held(self) -> bool:
        """Whether this thread is inside a transaction."""
        return self._current() is not None

    def _current(self) -> Held | None:
        held = self._local.held
        return held if held is not None and held.open else None  # another thread may have ended it

    def own(self) -> Session | None:
        """Return the session of the transaction around, if there is one."""
        held = self._current()
        return None if held is None else held.mine()

    def begin(self, session: Session) -> list[Call]:
        """Return what begins a transaction of one call, to be sent together with its first statements."""
        self._refuse_to_be_waited_for()
        settings = [] if session.is_own else [self._setting(_PATIENCE)]
        return [(statements.BEGIN, ()), *settings]

    def begin_long(self, how: Statement = statements.BEGIN) -> list[Call]:
        """Return what begins a transaction in which the client may take its time."""
        if how is statements.BEGIN:
            self._refuse_to_be_waited_for()
        return [(how, ()), self._setting("0")]

    def _setting(self, patience: str) -> Call:
        return statements.SETTINGS, (*self._settings, patience, 0)

    @contextmanager
    def together(self) -> Iterator[Session]:
        """Hold the statements of the body in one transaction, or in a savepoint of the one around."""
        with self.transaction():
            session = self.own()
            assert session is not None
            try:
                yield session
            except (FailedError, psycopg.Error) as error:
                raise self.sessions.error(error) from error

    def transaction(self, *, deferred: bool = False) -> Transaction:
        """Return a transaction, not begun yet."""
        return Transaction(self, deferred=deferred)

    def hold(self, *, deferred: bool) -> Held:
        """Return what holds the session of this thread's transaction, which begins now if there is none."""
        held = self._current()
        if held is not None:
            held.mine()
            return held
        lock: list[Call] = [] if deferred else [(statements.LOCK, ())]
        begin = self.begin_long(statements.BEGIN_SNAPSHOT if deferred else statements.BEGIN) + lock
        session = self.sessions.take(sure=True)
        try:
            session.trip(begin)
        except BaseException as error:
            session.roll_back()
            self.sessions.give_back(session)
            if isinstance(error, FailedError):
                raise self.sessions.error(error) from error
            raise
        held = self._local.held = Held(session, self.sessions)
        inside.set((*inside.get(), held))
        return held

    def let_go(self, held: Held) -> None:
        """Give the session back, at the end of the outermost transaction."""
        if held.open:
            return
        if self._local.held is held:
            self._local.held = None
        inside.set(tuple(one for one in inside.get() if one.open))
        if not held.is_parents:
            held.session.roll_back()
            self.sessions.give_back(held.session)

    def abandon(self) -> None:
        """End the session of this thread's transaction, if there is one: the store is closed."""
        held = self._current()
        if held is not None and not held.is_parents:
            held.session.close()

    def _refuse_to_be_waited_for(self) -> None:
        """Refuse a write of a thread that was started inside a transaction, and that it would wait for."""
        for held in inside.get():
            held.refuse_to_be_waited_for(self.sessions)


class Transaction:
    """What `SQLMetadataStore.transaction` returns: a transaction, or a savepoint inside another."""

    __slots__ = ("_deferred", "_depth", "_held", "_transactions")

    def __init__(self, transactions: Transactions, *, deferred: bool) -> None:
        self._transactions = transactions
        self._deferred = deferred

    def __enter__(self) -> None:
        self._held = held = self._transactions.hold(deferred=self._deferred)
        self._depth = len(held.open)
        if self._depth:
            self._say(f"SAVEPOINT layerstore_{self._depth}")
        held.open.append(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        held = self._held
        in_order = held.leaves(self)
        try:
            if held.is_parents:
                stays = False
            elif not in_order:
                held.is_broken = True
                held.session.roll_back()
                held.refuse_order()
            else:
                stays = self._end(commit=kind is None and not self._transactions.sessions.closed)
        finally:
            self._transactions.let_go(held)
        if kind is None and not stays:
            held.refuse(ROLLED_BACK)

    def _end(self, *, commit: bool) -> bool:
        """End it; tell whether what was written stays."""
        session = self._held.session
        stays = commit and session.is_in_transaction
        if self._depth:
            name = f"layerstore_{self._depth}"
            if not stays and session.is_open:
                self._say(f"ROLLBACK TO {name}", f"RELEASE {name}")
            elif stays:
                self._say(f"RELEASE {name}")
        elif stays:
            self._say("COMMIT")
        return stays

    def _say(self, *texts: str) -> None:
        sessions = self._transactions.sessions
        try:
            self._held.session.trip([(Statement(text, text), ()) for text in texts])
        except FailedError as error:
            raise sessions.error(error) from error
