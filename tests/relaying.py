"""
Kill a relay, or the server behind it, at a step of the dialogue, again and again, and account for every message.

    python -m tests.relaying --cycles 300 --seed 7

Clients send to a relay, which passes on to a server that keeps a Maildir. In each cycle one of the two gets
SIGKILL when a client reaches a step that the seed chooses; then it is started again, and what was not
answered 250 is sent again. In the end all messages must be in the Maildir, whole: each once, or once more for
each time that its end had been sent and no 250 came, where nobody can know (RFC 1047).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import os
import random
import shutil
import socket
import sys
import tempfile
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from tests.hastyrelay import PORT
from tests.killing import MARK
from tests.live import PATIENCE, Server

CLIENTS = 6
#: Where a client may be when a server is killed.
STEPS = ("connected", "mail", "rcpt", "data", "content", "end", "taken")
VICTIMS = ("relay", "next server")


@dataclass
class Result:
    """What all cycles came to."""

    cycles: int = 0
    #: Kills, by victim and step.
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    #: How often each message ended without anybody knowing how.
    unknown: Counter[str] = field(default_factory=Counter)
    #: How often each message was refused, or broken off before its end.
    refused: Counter[str] = field(default_factory=Counter)
    #: How often each is in the Maildir.
    kept: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        """Copies beyond the first."""
        return sum(self.kept.values()) - len(self.kept)

    def judge(self) -> None:
        """Look for what is lost, and for what is there too often."""
        self.faults += [f"{name} was acknowledged and is not there" for name in self.acknowledged - set(self.kept)]
        self.faults += [
            f"{name} is there {count} times, and its end was lost {self.unknown[name]} times"
            for name, count in self.kept.items()
            if count > 1 + self.unknown[name]
        ]

    def __str__(self) -> str:
        return (
            f"{self.cycles} cycles: {len(self.acknowledged)} messages acknowledged; {sum(self.refused.values())} times "
            f"refused or broken off, {sum(self.unknown.values())} times nobody knew; "
            f"{self.duplicates} there twice, {len(self.faults)} faults"
        )


class Lost(Exception):
    """The connection is gone, or the relay has refused."""


class Client:
    """
    Sends message after message until a server is killed.

    :param load: the cycle.
    """

    def __init__(self, load: Load, choices: random.Random) -> None:
        self._load = load
        self._choices = choices
        self._sent = False

    async def run(self) -> None:
        """Send until there is nothing more to do."""
        while not self._load.over:
            try:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._load.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            try:
                await self._expect(b"220")
                await self._say(b"EHLO c.example\r\n", b"250")
                while not self._load.over:
                    await self._message()
            except (Lost, OSError):
                await asyncio.sleep(0.02)
            finally:
                self._writer.close()

    async def _message(self) -> None:
        load = self._load
        name = load.take()
        self._sent = False
        try:
            await self._deliver(name, load.content(name))
        except (Lost, OSError):
            (load.result.unknown if self._sent else load.result.refused)[name] += 1
            load.again.append(name)
            raise
        load.result.acknowledged.add(name)
        load.reached("taken")

    async def _deliver(self, name: str, content: bytes) -> None:
        load = self._load
        load.reached("connected")
        await self._say(b"MAIL FROM:<a@client.example>\r\n", b"250")
        load.reached("mail")
        await self._say(b"RCPT TO:<b@example.com>\r\n", b"250")
        load.reached("rcpt")
        if self._choices.random() < 0.5:
            half = len(content) // 2
            await self._say(b"BDAT %d\r\n%b" % (half, content[:half]), b"250")
            load.reached("content")
            self._sent = True
            self._writer.write(b"BDAT %d LAST\r\n%b" % (len(content) - half, content[half:]))
        else:
            await self._say(b"DATA\r\n", b"354")
            load.reached("data")
            stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
            self._writer.write(stuffed[: len(stuffed) // 2])
            await self._writer.drain()
            load.reached("content")
            self._sent = True
            self._writer.write(stuffed[len(stuffed) // 2 :] + b".\r\n")
        load.reached("end")
        await self._expect(b"250")

    async def _say(self, command: bytes, code: bytes) -> None:
        self._writer.write(command)
        await self._expect(code)

    async def _expect(self, code: bytes) -> None:
        line = b"   -"
        while line[3:4] == b"-":
            try:
                line = await asyncio.wait_for(self._reader.readline(), PATIENCE)
            except TimeoutError:
                self._load.result.faults.append("no reply came")
                raise Lost from None
            if not line.endswith(b"\n"):
                raise Lost
        if line[:1] == b"5":
            self._load.result.faults.append(f"{line!r} where {code!r} or a 4xx should come")
        if line[:3] != code:
            raise Lost


class Load:
    """
    One cycle.

    :param again: the names of messages that are to be sent once more.
    :param victim: the server that is killed; None for nobody: the cycle ends when nothing is left to send again.
    """

    def __init__(
        self, number: int, port: int, victim: Server | None, step: str, result: Result, again: deque[str],
        choices: random.Random,
    ) -> None:  # fmt: skip
        self.port = port
        self.again = again
        self.result = result
        self._number = number
        self._victim = victim
        self._step = step
        self._countdown = choices.choice([1, choices.randint(1, 10), choices.randint(10, 60)])
        self._delay = choices.choice([0, 0, choices.uniform(0, 0.01)])
        self._choices = choices
        self._names = 0
        self.over = False

    def take(self) -> str:
        """Give the name of the next message."""
        if self.again:
            return self.again.popleft()
        self._names += 1
        if self._victim is None:
            self.over = True
        return f"{self._number}.{self._names}"

    def content(self, name: str) -> bytes:
        """Make a message, always the same of a name: it ends in its own digest."""
        size = random.Random(name).choice([200, 200, 5_000, 40_000, 300_000])
        text = base64.b64encode(random.Random(name).randbytes(size)).replace(b"A", b"\r\n.")
        whole = b"%b%b\r\nSubject: x\r\n\r\n%b\r\n" % (MARK, name.encode(), text)
        return whole + hashlib.sha256(whole).hexdigest().encode() + b"\r\n"

    def reached(self, step: str) -> None:
        """A client has come to a step."""
        if step == self._step and self._victim is not None and self._countdown:
            self._countdown -= 1
            if not self._countdown:
                asyncio.get_running_loop().call_later(self._delay, self._kill)

    def _kill(self) -> None:
        assert self._victim is not None
        self._victim.process.kill()
        # The others go on for a little: what they meet now is part of it.
        asyncio.get_running_loop().call_later(0.1, self._end)

    def _end(self) -> None:
        self.over = True

    async def run(self) -> None:
        """Run clients until somebody is dead, or nothing is left."""
        await asyncio.gather(*(Client(self, random.Random(self._choices.random())).run() for _ in range(CLIENTS)))


def collect(new: Path, result: Result) -> None:
    """Count the messages in ``new/``, see whether they are whole, and take them away."""
    for path in list(new.iterdir()):
        content = path.read_bytes()
        whole = content[max(content.find(MARK), 0) :]
        body, digest = whole[:-66], whole[-66:-2]
        name = body[len(MARK) :].partition(b"\r\n")[0].decode("ascii", "replace")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            result.faults.append(f"{name} is in new/ and not whole ({len(content)} bytes)")
        result.kept[name] += 1
        path.unlink()


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def run(
    cycles: int, seed: int, *, protocol: str = "smtp", report: bool = False, relay: str = "", victim: str = ""
) -> Result:
    """
    Kill so many times.

    :param seed: chooses victims, steps and messages; the kernel has a say too.
    :param protocol: ``smtp`` or ``lmtp``: what is spoken behind the relay.
    :param report: print each fiftieth cycle.
    :param relay: the relay's backend, if it is to be another; it finds the port in its environment.
    :param victim: kill this one only, at the end of a message.
    """
    result = Result()
    again: deque[str] = deque()
    choices = random.Random(f"{seed}/{protocol}")
    directory = Path(tempfile.mkdtemp(prefix="smtpsvc-relaying-"))
    port = free_port()
    os.environ[PORT] = str(port)
    listen = ("--port" if protocol == "smtp" else "--lmtp", f"tcp:{port}:interface=127.0.0.1")
    servers: dict[str, Server] = {}
    options = {
        "relay": ("--backend", relay or f"{protocol}:127.0.0.1:{port}"),
        "next server": ("--backend", f"maildir:{directory}/Maildir", *listen),
    }
    pairs = [(victim, "end")] if victim else [(each, step) for each in VICTIMS for step in STEPS]
    choices.shuffle(pairs)
    try:
        for number in range(cycles + 20):
            if number > cycles and not again:
                break
            for name in reversed(VICTIMS):
                if name not in servers or servers[name].process.poll() is not None:
                    if name in servers:
                        servers[name].close()
                    servers[name] = Server(*options[name])
            name, step = pairs[number % len(pairs)]
            killed = servers[name] if number < cycles else None
            load = Load(number, servers["relay"].port, killed, step, result, again, random.Random(choices.random()))
            asyncio.run(load.run())
            if killed is not None:
                killed.process.wait(PATIENCE)
                result.kills[name, step] += 1
                result.cycles += 1
            collect(directory / "Maildir" / "new", result)
            if report and result.cycles % 50 == 0:
                print(protocol, result, flush=True)
        # What was under way in the server behind may come late; its end waits for that.
        for server in servers.values():
            server.stop()
        collect(directory / "Maildir" / "new", result)
    finally:
        for server in servers.values():
            server.close()
        shutil.rmtree(directory, ignore_errors=True)
    if again:
        result.faults.append(f"{len(again)} messages were never taken")
    result.judge()
    return result


def main() -> int:
    """Read the command line, run over SMTP and LMTP, and print the results."""
    parser = argparse.ArgumentParser(description="Kill a relay or the server behind it, and account for every message.")
    parser.add_argument("--cycles", type=int, default=28)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    results = {
        protocol: run(options.cycles, options.seed, protocol=protocol, report=True) for protocol in ("smtp", "lmtp")
    }
    for protocol, result in results.items():
        print(f"seed {options.seed}, {protocol}, {result}", *result.faults, sep="\n")
    return 1 if any(result.faults for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
