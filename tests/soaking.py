"""
Keep the service busy for long with clients of every kind, and see that nothing grows.

    python -m tests.soaking --minutes 10 --seed 3

Small mail, large mail, TLS, slow clients and rude ones come and go at the same time, into a Maildir
that is emptied meanwhile. At the end memory must be what it was after the start, no descriptor may
be left, every acknowledged message must have been there, and the log must hold no traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import ssl
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.certificates import pair
from tests.live import Server

#: Clients of each kind at the same time.
CLIENTS = {"small": 6, "large": 2, "starttls": 2, "implicit": 2, "slow": 6, "rude": 4, "lmtp": 2}

MAIL = b"MAIL FROM:<a@client.example>\r\n"
RCPT = b"RCPT TO:<b@example.com>\r\n"
#: What a line of a large message is.
LINE = b"x" * 76 + b"\r\n"
#: Memory may end so much above what it was, in part and in bytes: an allocator keeps some.
GROWTH = (1.15, 8 << 20)


@dataclass
class Result:
    """What a run came to."""

    #: Sessions that ended, by the kind of client.
    sessions: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    kept: int = 0
    #: Resident memory in bytes, once a second.
    memory: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.sessions.items()))
        early, late = self.levels()
        return (
            f"{sum(self.sessions.values())} sessions ({kinds}), {self.acknowledged} messages acknowledged, "
            f"{early >> 20} MiB resident early, {late >> 20} MiB late, {len(self.faults)} faults"
        )

    def levels(self) -> tuple[int, int]:
        """Give the median of the memory in the second fifth of the time, and in the last."""
        fifth = max(1, len(self.memory) // 5)
        parts = self.memory[fifth : 2 * fifth] or self.memory, self.memory[-fifth:]
        early, late = (int(statistics.median(part)) if part else 0 for part in parts)
        return early, late

    def judge(self) -> None:
        """Add a fault if memory has grown."""
        early, late = self.levels()
        if late > early * GROWTH[0] + GROWTH[1]:
            self.faults.append(f"memory grew from {early >> 20} to {late >> 20} MiB")


class Client:
    """
    Opens session after session, each another.

    :param kind: of :data:`CLIENTS`.
    """

    def __init__(self, kind: str, ports: dict[str, int], context: ssl.SSLContext, seed: str, result: Result) -> None:
        self._kind = kind
        self._ports = ports
        self._context = context
        self._choices = random.Random(seed)
        self._result = result

    async def run(self, end: float) -> None:
        """Go on until *end*, by the clock of the loop."""
        loop = asyncio.get_running_loop()
        session = getattr(self, f"_be_{self._kind}")
        while loop.time() < end:
            port = self._ports.get(self._kind, self._ports["smtp"])
            context = self._context if self._kind == "implicit" else None
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            try:
                await session()
            except (OSError, EOFError) as error:
                if self._kind != "rude":
                    self._result.faults.append(f"{self._kind}: {error!r}")
            finally:
                self._writer.close()
            self._result.sessions[self._kind] += 1
            # A crowd that never rests would measure the machine.
            await asyncio.sleep(self._choices.uniform(0, 0.02))

    # The kinds.

    async def _be_small(self) -> None:
        await self._greet()
        for _ in range(self._choices.randint(1, 20)):
            await self._message(b"Subject: x\r\n\r\n" + LINE * self._choices.randint(1, 60))
        await self._say(b"QUIT\r\n", b"221")

    async def _be_lmtp(self) -> None:
        await self._greet(b"LHLO")
        await self._message(b"Subject: x\r\n\r\n" + LINE * 20)
        await self._say(b"QUIT\r\n", b"221")

    async def _be_large(self) -> None:
        await self._greet()
        content = b"Subject: x\r\n\r\n" + LINE * (self._choices.choice([1, 5, 20]) * (1 << 20) // len(LINE))
        await self._message(content, chunks=self._choices.random() < 0.5)
        await self._say(b"QUIT\r\n", b"221")
        await asyncio.sleep(1)

    async def _be_implicit(self) -> None:
        await self._be_small()

    async def _be_starttls(self) -> None:
        await self._greet()
        await self._say(b"STARTTLS\r\n", b"220")
        await self._writer.start_tls(self._context)
        await self._say(b"EHLO client.example\r\n", b"250")
        await self._message(b"Subject: x\r\n\r\n" + LINE * self._choices.randint(1, 40_000))
        await self._say(b"QUIT\r\n", b"221")

    async def _be_slow(self) -> None:
        await self._greet()
        for octet in MAIL:
            self._writer.write(bytes([octet]))
            await asyncio.sleep(0.01)
        await self._expect(b"250")
        await self._say(RCPT, b"250")
        await self._say(b"DATA\r\n", b"354")
        for _ in range(self._choices.randint(1, 10)):
            self._writer.write(LINE)
            await asyncio.sleep(self._choices.uniform(0, 0.5))
        await self._say(b".\r\n", b"250")
        self._result.acknowledged += 1

    async def _be_rude(self) -> None:
        act = self._choices.choice(["nonsense", "leave", "reset", "flood", "bare", "early", "unread"])
        if act == "nonsense":
            self._writer.write(self._choices.randbytes(5000))
        elif act == "flood":
            self._writer.write(b"NOOP\r\n" * 5000)
        elif act == "unread":
            self._writer.write(b"EHLO x\r\n" + b"HELP\r\n" * 90)
            await asyncio.sleep(0.2)
            return
        elif act == "early":
            return
        else:
            await self._greet()
            self._writer.write(MAIL + RCPT + b"DATA\r\n" + LINE * self._choices.randint(1, 5000))
            if act == "bare":
                self._writer.write(b"a\nb\r\n.\r\nQUIT\r\n")
            await self._writer.drain()
            if act == "reset":
                self._writer.transport.abort()
                return
            if act == "leave":
                return
        await self._reader.read(100_000)

    # What they do.

    async def _greet(self, verb: bytes = b"EHLO") -> None:
        await self._expect(b"220")
        await self._say(verb + b" client.example\r\n", b"250")

    async def _message(self, content: bytes, chunks: bool = False) -> None:
        self._writer.write(MAIL + RCPT + (b"" if chunks else b"DATA\r\n"))
        for code in (b"250", b"250") if chunks else (b"250", b"250", b"354"):
            await self._expect(code)
        self._writer.write(b"BDAT %d LAST\r\n" % len(content) + content if chunks else content + b".\r\n")
        await self._writer.drain()
        await self._expect(b"250")
        self._result.acknowledged += 1

    async def _say(self, command: bytes, code: bytes) -> None:
        self._writer.write(command)
        await self._expect(code)

    async def _expect(self, code: bytes) -> None:
        line = b"   -"
        while line[3:4] == b"-":
            line = await self._reader.readline()
            if not line.endswith(b"\n"):
                raise EOFError("the server has closed")
        if line[:3] != code:
            raise EOFError(f"{line!r} where {code!r} should come")


class Watch:
    """
    Looks at the service once a second, and empties its Maildir.

    :param server: which has begun to serve.
    """

    def __init__(self, server: Server, result: Result) -> None:
        self._server = server
        self._result = result
        self._process = Path(f"/proc/{server.process.pid}")

    def descriptors(self) -> int:
        """Count what it has open."""
        return sum(1 for _ in (self._process / "fd").iterdir())

    def sweep(self) -> None:
        """Count and remove what it has kept."""
        for path in (self._server.maildir / "new").iterdir():
            path.unlink()
            self._result.kept += 1

    async def run(self) -> None:
        """Go on until it is cancelled."""
        while True:
            await asyncio.sleep(1)
            pages = int((self._process / "statm").read_text().split()[1])
            self._result.memory.append(pages * 4096)
            self.sweep()


async def _soak(server: Server, context: ssl.SSLContext, seconds: float, seed: int, result: Result) -> None:
    ports = {"smtp": server.port, "implicit": server.ports("SMTP")[1], "lmtp": server.ports("LMTP")[0]}
    watch = Watch(server, result)
    # The first session of a process opens what it keeps: threads, the Maildir's directories.
    await Client("small", ports, context, f"{seed}/first", result).run(asyncio.get_running_loop().time() + 0.5)
    await asyncio.sleep(0.5)
    before = watch.descriptors()
    watching = asyncio.create_task(watch.run())
    end = asyncio.get_running_loop().time() + seconds
    clients = [
        Client(kind, ports, context, f"{seed}/{kind}/{number}", result)
        for kind, count in CLIENTS.items()
        for number in range(count)
    ]
    await asyncio.gather(*(client.run(end) for client in clients))
    watching.cancel()
    for _ in range(100):
        if watch.descriptors() <= before:
            break
        await asyncio.sleep(0.1)
    else:
        result.faults.append(f"{watch.descriptors()} descriptors where {before} were before")
    watch.sweep()


def run(seconds: float, seed: int) -> Result:
    """
    Keep it busy.

    :param seed: chooses what clients do; the machine has a say in when.
    """
    result = Result()
    with tempfile.TemporaryDirectory() as name:
        both = Path(name, "both.pem")
        both.write_bytes(b"".join(pair()))
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        loopback = "tcp:0:interface=127.0.0.1"
        server = Server(
            *("--port", f"implicit-tls:{loopback}", "--lmtp", loopback, "--tls-certificate", str(both)),
            *("--max-connections-per-client", "0", "--max-errors", "20"),
        )
        try:
            asyncio.run(_soak(server, context, seconds, seed, result))
            status = server.stop()
            log = server.log.read_text(errors="replace")
        finally:
            server.close()
    if status not in (0, 143, -15):
        result.faults.append(f"it ended with {status}")
    if "Traceback" in log:
        result.faults.append(f"the log has a traceback: {log[log.index('Traceback') :][:2000]}")
    if result.kept < result.acknowledged:
        result.faults.append(f"{result.acknowledged} messages were acknowledged, {result.kept} kept")
    result.judge()
    return result


def main() -> int:
    """Read the command line, run, and print the result."""
    parser = argparse.ArgumentParser(description="Keep the service busy for long, and see that nothing grows.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    result = run(options.minutes * 60, options.seed)
    print(f"seed {options.seed}, {(time.monotonic() - began) / 60:.1f} minutes: {result}", *result.faults, sep="\n")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
