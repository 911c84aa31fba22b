"""
Kill the service under load, again and again, and account for every message that it acknowledged.

    python -m tests.killing --cycles 2000 --seed 7

Each cycle starts the service, has clients send mail by DATA, by BDAT and by LMTP, and ends it with
SIGKILL at a moment that the seed chooses. What was answered 250 must then be in ``new/``: there,
whole and once; and what was not answered may be there too, but whole. The next cycle starts on the
same Maildir.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.live import Server

#: Clients of each kind.
CLIENTS = 8
#: The line that names a message; what is checked begins with it.
MARK = b"X-Killing: "

MAIL = b"MAIL FROM:<a@client.example>\r\n"
RCPT = b"RCPT TO:<b%d@example.com>\r\n"


@dataclass
class Tally:
    """What clients sent, and what they were answered."""

    #: The digest of each message that was begun, by its name.
    sent: dict[str, bytes] = field(default_factory=dict)
    #: The kind of client of each message that was answered 250, by its name.
    acknowledged: dict[str, str] = field(default_factory=dict)
    #: What should not happen.
    faults: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What all cycles came to."""

    cycles: int = 0
    #: Messages acknowledged, by the kind of client.
    acknowledged: Counter[str] = field(default_factory=Counter)
    #: Messages in ``new/`` whose answer was lost.
    unanswered: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} by {kind}" for kind, count in sorted(self.acknowledged.items()))
        return (
            f"{self.cycles} cycles: {sum(self.acknowledged.values())} messages acknowledged ({kinds}), "
            f"{self.unanswered} kept whose answer was lost, {len(self.faults)} faults"
        )


def account(sent: Mapping[str, bytes], acknowledged: Iterable[str], kept: Iterable[bytes]) -> list[str]:
    """
    Compare what was acknowledged with what was kept.

    :param sent: the digest of each message by its name.
    :param acknowledged: the names of those that were answered 250.
    :param kept: the files in ``new/``.
    :returns: a sentence for each message that is not there, not whole, or there twice.
    """
    faults = []
    found: Counter[str] = Counter()
    for content in kept:
        place = content.find(MARK)
        name = content[place + len(MARK) :].partition(b"\r\n")[0].decode("ascii", "replace") if place >= 0 else ""
        if name not in sent or hashlib.sha256(content[place:]).digest() != sent[name]:
            faults.append(f"{name or content[:40]!r} is in new/ and not whole ({len(content)} bytes)")
        else:
            found[name] += 1
    faults += [f"{name} was acknowledged and is not there" for name in acknowledged if name not in found]
    faults += [f"{name} is there {count} times" for name, count in found.items() if count > 1]
    return faults


class Client:
    """
    Sends mail until the connection is lost.

    :param kind: ``DATA`` or ``BDAT``, or either behind ``LMTP-``.
    :param port: of a listener for SMTP or LMTP.
    """

    def __init__(self, kind: str, name: str, port: int, choices: random.Random, load: Load) -> None:
        self._kind = kind
        self._name = name
        self._port = port
        self._choices = choices
        self._load = load
        self._count = 0

    async def run(self) -> None:
        """Open connection after connection, each with a few messages."""
        try:
            while True:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
                await self._connection()
        except (OSError, EOFError):
            if not self._load.killed:
                self._load.tally.faults.append(f"{self._name}: the connection was lost before the service was killed")

    async def _connection(self) -> None:
        try:
            await self._expect(b"220")
            await self._say(b"LHLO c.example\r\n" if "LMTP" in self._kind else b"EHLO c.example\r\n", b"250")
            for _ in range(self._choices.randint(1, 6)):
                await self._message()
            await self._say(b"QUIT\r\n", b"221")
        finally:
            self._writer.close()

    async def _message(self) -> None:
        self._count += 1
        name = f"{self._name}.{self._count}"
        content = self._content(name)
        self._load.tally.sent[name] = hashlib.sha256(content).digest()
        recipients = self._choices.randint(1, 3)
        commands = [MAIL, *(RCPT % number for number in range(recipients))]
        if self._choices.random() < 0.5:  # pipelined, or one after the other
            commands = [b"".join(commands)]
        for command in commands:
            self._writer.write(command)
            for _ in range(command.count(b"\n")):
                await self._expect(b"250")
        if "BDAT" in self._kind:
            await self._chunks(content)
        else:
            await self._say(b"DATA\r\n", b"354")
            self._writer.write((b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
        for _ in range(recipients if "LMTP" in self._kind else 1):
            await self._expect(b"250")
            self._load.acknowledge(name, self._kind)

    async def _chunks(self, content: bytes) -> None:
        """Send content in one to four chunks; the reply to the last is not read."""
        places = sorted(self._choices.randrange(len(content)) for _ in range(self._choices.randint(0, 3)))
        for start, end in zip([0, *places], [*places, len(content)], strict=True):
            last = b" LAST" if end == len(content) else b""
            self._writer.write(b"BDAT %d%b\r\n%b" % (end - start, last, content[start:end]))
            if not last:
                await self._expect(b"250")

    def _content(self, name: str) -> bytes:
        """Make a message: small mostly, sometimes one that is written to its file as it comes."""
        size = self._choices.choice([200, 200, 1_000, 5_000, 5_000, 40_000, 150_000, 400_000])
        if size > 100_000 and self._choices.random() < 0.7:
            size //= 100
        text = base64.b64encode(self._choices.randbytes(size)).replace(b"A", b"\r\n.")
        return b"%b%b\r\nSubject: x\r\n\r\n%b\r\n" % (MARK, name.encode(), text)

    async def _say(self, command: bytes, code: bytes) -> None:
        self._writer.write(command)
        await self._expect(code)

    async def _expect(self, code: bytes) -> None:
        line = b"   -"
        while line[3:4] == b"-":
            line = await self._reader.readline()
            if not line.endswith(b"\n"):
                raise EOFError
        if line[:3] != code:
            self._load.tally.faults.append(f"{self._name}: {line!r} where {code!r} should come")
            raise EOFError


class Load:
    """
    One cycle: clients send, and at some moment the service is killed.

    :param number: of the cycle.
    """

    def __init__(self, server: Server, number: int, choices: random.Random) -> None:
        self.tally = Tally()
        self.killed = False
        self._server = server
        self._number = number
        self._choices = choices
        # By count, so that the last 250 is as fresh as can be; or by time, before there are many.
        self._enough = choices.choice([1, choices.randint(1, 50), choices.randint(50, 400)])
        self._seconds = choices.choice([choices.uniform(0.0, 0.2), 20.0, 20.0])

    def acknowledge(self, name: str, kind: str) -> None:
        """A client has read a 250 for a message; perhaps it is the last thing that this service says."""
        self.tally.acknowledged[name] = kind
        if len(self.tally.acknowledged) >= self._enough:
            self._kill()

    def _kill(self) -> None:
        if not self.killed:
            self.killed = True
            self._server.process.kill()

    async def run(self) -> None:
        """Run clients until the service is dead, and they have read what it had sent."""
        ports = {"": self._server.ports("SMTP")[0], "LMTP-": self._server.ports("LMTP")[0]}
        kinds = [(f"{prefix}{verb}", port) for prefix, port in ports.items() for verb in ("DATA", "BDAT")]
        clients = [
            Client(kind, f"{self._number}.{kind}.{each}", port, random.Random(self._choices.random()), self)
            for kind, port in kinds
            for each in range(CLIENTS)
        ]
        late = asyncio.get_running_loop().call_later(self._seconds, self._kill)
        await asyncio.gather(*(client.run() for client in clients))
        late.cancel()


def run(cycles: int, seed: int, *, backend: str = "maildir:./Maildir", report: bool = False) -> Result:
    """
    Kill the service so many times.

    :param seed: chooses messages and moments; the kernel and the disk have a say too.
    :param report: print each hundredth cycle.
    :returns: what was acknowledged, and what went wrong.
    """
    result = Result()
    directory = Path(tempfile.mkdtemp(prefix="smtpsvc-killing-"))
    new = directory / "Maildir" / "new"
    try:
        for number in range(cycles):
            server = Server("--backend", backend, "--lmtp", "tcp:0:interface=127.0.0.1", directory=str(directory))
            load = Load(server, number, random.Random(f"{seed}/{number}"))
            try:
                asyncio.run(load.run())
            finally:
                server.kill()
            server.log.unlink()
            tally = load.tally
            files = list(new.iterdir())
            faults = tally.faults + account(tally.sent, tally.acknowledged, (path.read_bytes() for path in files))
            for path in files:
                path.unlink()
            result.cycles += 1
            result.acknowledged.update(tally.acknowledged.values())
            result.unanswered += len(files) - len(tally.acknowledged)
            result.faults += [f"cycle {number}: {fault}" for fault in faults]
            if report and result.cycles % 100 == 0:
                print(result, flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return result


def main() -> int:
    """Read the command line, run, and print the result."""
    parser = argparse.ArgumentParser(description="Kill the service under load and account for every message.")
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    result = run(options.cycles, options.seed, report=True)
    print(f"seed {options.seed}, {result}", *result.faults, sep="\n")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
