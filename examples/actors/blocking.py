"""Wrapping a blocking library: an actor owns the connection, a thread does the waiting.

Run it with ``python -m examples.actors.blocking``. sqlite3 blocks, and a
connection wants one caller at a time: the mailbox is the queue in front of it.
A statement that fails is the caller's business and is refused; a connection
that breaks is a crash, and the restart opens a new one.
"""

import sqlite3
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from terzetto.actor import Actor, Context, Reject, Stop, open_supervisor


@attrs.define
class Database(Actor):
    """One sqlite3 connection."""

    path: Path
    connection: sqlite3.Connection | None = None

    async def started(self, ctx: Context["Database"]) -> None:
        """Open the connection; a failure fails the start."""
        connect = partial(sqlite3.connect, self.path, check_same_thread=False)
        self.connection = await trio.to_thread.run_sync(connect)

    async def stopping(self, reason: Stop) -> None:
        """Close the connection."""
        if self.connection is not None:
            await trio.to_thread.run_sync(self.connection.close)

    async def execute(
        self, statement: str, values: Sequence[object] = ()
    ) -> list[tuple[object, ...]]:
        """Run one statement in a transaction of its own, and return its rows.

        The handler waits for the thread, and so does everybody behind it: that
        is what a single connection means. Give each its own for more.
        """
        try:
            return await trio.to_thread.run_sync(self._execute, statement, values)
        except sqlite3.ProgrammingError:
            raise  # the connection is unusable: crash, and start again with a new one
        except sqlite3.Error as error:
            raise Reject(error) from error

    def _execute(self, statement: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        if self.connection is None:
            raise sqlite3.ProgrammingError("not connected")
        with self.connection:
            return self.connection.execute(statement, tuple(values)).fetchall()


async def main() -> None:
    """Let ten tasks share one connection."""
    with tempfile.TemporaryDirectory() as directory:
        async with open_supervisor() as top:
            database = await top.spawn(partial(Database, Path(directory) / "shop.db"))
            await database.ask(Database.execute, "create table orders (id integer primary key)")

            async def order(number: int) -> None:
                await database.ask(Database.execute, "insert into orders values (?)", [number])

            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(order, number)
            print(await database.ask(Database.execute, "select count(*) from orders"))
            try:
                await order(3)
            except sqlite3.IntegrityError as error:
                print(f"refused: {error}")
            print(await database.ask(Database.execute, "select max(id) from orders"))


if __name__ == "__main__":
    trio.run(main)
