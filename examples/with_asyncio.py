"""
Take mail inside a program of asyncio: the loop is the program's own, and hooks are code of asyncio.

    python with_asyncio.py
    python with_asyncio.py tcp:2525

Twisted is given the loop that runs already, so ``asyncio.run`` begins and ends the program as ever. Ctrl-C ends it.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet import asyncioreactor

from smtpsvc import IBackend, MailService, Message, Settings, asyncio_hook, on_message


@asynccontextmanager
async def serving(backend: IBackend, where: str) -> AsyncIterator[MailService]:
    """Serve mail while a block of asyncio runs; at its end clients are let go, and waited for."""
    loop = asyncio.get_running_loop()
    asyncioreactor.install(loop)
    from twisted.internet import endpoints, reactor

    running: Any = reactor
    running.startRunning(installSignalHandlers=False)
    mail = MailService(backend, Settings(hostname="localhost"))
    mail.listen(endpoints.serverFromString(running, where))
    mail.startService()
    try:
        yield mail
    finally:
        await mail.stopService().asFuture(loop)
        running.getThreadPool().stop()


async def main(where: str = "tcp:2525:interface=127.0.0.1") -> None:
    queue: asyncio.Queue[str] = asyncio.Queue()

    @on_message
    @asyncio_hook
    async def backend(message: Message) -> None:
        await queue.put(f"{message.sender} -> {', '.join(map(str, message.recipients))}")

    async with serving(backend, where):
        while True:
            print(await queue.get())


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
