"""The client of aiosmtplib: connections that are kept, one message at a time on each."""

from __future__ import annotations

import asyncio
import sys

import aiosmtplib

from benchmarks.clients import MESSAGES, RECIPIENT, SENDER, started


async def run(port: int, message: bytes, count: int, connections: int) -> None:
    """Send the messages."""
    opened = [
        aiosmtplib.SMTP(hostname="127.0.0.1", port=port, use_tls=False, start_tls=False) for _ in range(connections)
    ]
    for each in opened:
        await each.connect()
        await each.ehlo()

    async def some(client: aiosmtplib.SMTP) -> None:
        for _ in range(count // connections):
            await client.sendmail(SENDER, [RECIPIENT], message)

    ended = started()
    await asyncio.gather(*(some(each) for each in opened))
    ended()
    for each in opened:
        await each.quit()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), MESSAGES[sys.argv[2]](), int(sys.argv[3]), int(sys.argv[4])))
