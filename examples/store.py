"""
Keep mail in a database, through ``twisted.enterprise.adbapi``.

    python store.py mail.sqlite
    python store.py mail.sqlite tcp:2525
    sqlite3 mail.sqlite 'SELECT id, sender, length(content) FROM message'

The client hears 250 when the transaction is committed, which SQLite does on the disk. For PostgreSQL the pool is
``adbapi.ConnectionPool("psycopg2", "dbname=mail", cp_reconnect=True)``; the type of the content is BYTEA, and a
parameter is written %s and not ?.
"""

import sqlite3
import sys
from typing import Any

from twisted.enterprise import adbapi
from twisted.internet import defer, endpoints, task

from smtpsvc import FunctionBackend, Message, SMTPFactory, on_message

SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    id TEXT PRIMARY KEY,
    arrived TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    sender TEXT NOT NULL,
    content BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS recipient (
    message TEXT NOT NULL REFERENCES message (id),
    address TEXT NOT NULL
);
"""


def store(path: str) -> FunctionBackend:
    """
    Make the backend.

    :param path: of the database, which is made if it is not there.
    """
    database = sqlite3.connect(path)
    database.executescript(SCHEMA)
    database.close()
    # SQLite has one writer at a time, and a connection may be closed by another thread at the end.
    pool = adbapi.ConnectionPool("sqlite3", path, timeout=30, cp_max=1, check_same_thread=False)

    @on_message
    def backend(message: Message) -> defer.Deferred[None]:
        keeping: defer.Deferred[None] = pool.runInteraction(keep, message)
        return keeping

    return backend


def keep(cursor: Any, message: Message) -> None:
    """Write a message; called in a thread, in a transaction. What it raises rolls that back, and is answered 451."""
    key = message.envelope.id
    cursor.execute(
        "INSERT INTO message (id, sender, content) VALUES (?, ?, ?)", (key, str(message.sender), message.content)
    )
    cursor.executemany(
        "INSERT INTO recipient (message, address) VALUES (?, ?)",
        [(key, str(recipient)) for recipient in message.recipients],
    )


async def main(reactor: Any, path: str, where: str = "tcp:2525:interface=127.0.0.1") -> None:
    await endpoints.serverFromString(reactor, where).listen(SMTPFactory(store(path)))
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
