"""
A server with hooks of every kind that are code of asyncio, and a client that is, for tests.

``python -m tests.onasyncio asyncio`` runs it on the reactor of asyncio, with another word on the usual one. The
last line has the codes of the replies, and the hooks that came to their end, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Callable
from typing import Any

if sys.argv[1:] == ["asyncio"]:
    from twisted.internet import asyncioreactor

    asyncioreactor.install()

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet import defer, endpoints, task, threads
from zope.interface import implementer

from smtpsvc import (
    AccountRealm,
    Backend,
    Delivery,
    IAuthenticated,
    ISecured,
    IVerifier,
    Policy,
    Session,
    Settings,
    SMTPFactory,
    asyncio_hook,
    with_policies,
)
from tests.certificates import AUTHORITY, store

LINES = (
    *("EHLO c.example", "STARTTLS", "EHLO c.example"),
    *("AUTH PLAIN AGpvZQBzZXNhbWU=", "VRFY b@y.example", "EXPN b@y.example"),
    *("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA", "hello\r\n.", "QUIT"),
)

ended: list[str] = []


def hook(name: str, result: Callable[..., object] = lambda *_: None) -> Any:
    """Make a hook that sleeps, in several tasks, before it gives its result."""

    @asyncio_hook
    async def called(*args: object) -> object:
        await asyncio.sleep(0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(0.001))
            tasks.create_task(asyncio.sleep(0))
        ended.append(name)
        return result(*args)

    return staticmethod(called)


class _Delivery(Delivery):
    write = hook("write")
    finish = hook("finish")


class _Checker(InMemoryUsernamePasswordDatabaseDontUse):
    requestAvatarId = hook("requestAvatarId", lambda credentials: credentials.username)


@implementer(IAuthenticated, ISecured, IVerifier)
class _Session(Session):
    tls_context = hook("tls_context")
    secured = hook("secured")
    helo = hook("helo")
    mail = hook("mail")
    data = hook("data", lambda _: _Delivery())
    reset = hook("reset")
    close = hook("close")
    verify = hook("verify", lambda query: [query])
    expand = hook("expand", lambda query: [query])
    authenticated = hook("authenticated")

    def mechanisms(self, offered: Any) -> Any:
        """All of them."""
        return offered

    def rcpt(self, envelope: Any, recipient: Any) -> Any:
        """Give a Future."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(0.001, future.set_result, None)
        ended.append("rcpt")
        return future


class _Backend(Backend):
    open_session = hook("open_session", lambda *_: _Session())


class _Policy(Policy):
    connect = hook("connect")
    message = hook("message")
    examine = hook("examine")


async def converse(port: int) -> list[int]:
    """Be a client, and give the codes of the replies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    codes = []
    for line in ("", *LINES):
        if codes and not codes[-1]:
            break
        writer.write(f"{line}\r\n".encode() if line else b"")
        while (reply := await reader.readline())[3:4] == b"-":
            pass
        codes.append(int(reply[:3] or 0))
        if line == "STARTTLS" and codes[-1] == 220:
            trusted = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
            await writer.start_tls(trusted, server_hostname="localhost")
    writer.close()
    return codes


async def main(reactor: Any) -> None:
    """Serve one client."""
    portal = Portal(AccountRealm(), [_Checker(joe=b"sesame")])
    backend = with_policies(_Backend(), _Policy())
    factory = SMTPFactory(backend, Settings(hostname="localhost"), portal=portal, tls=store())
    opened: Any = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    port = opened.getHost().port
    if sys.argv[1:] == ["asyncio"]:
        codes = await defer.Deferred.fromFuture(asyncio.ensure_future(converse(port)))
    else:
        codes = await threads.deferToThread(lambda: asyncio.run(converse(port)))
    for _ in range(1000):
        if "close" in ended or codes[-1] != 221:
            break
        await task.deferLater(reactor, 0.01)
    print(json.dumps({"codes": codes, "ended": ended}))


if __name__ == "__main__":
    task.react(main)
