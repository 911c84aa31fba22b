"""
Send nonsense that knows the grammar to the service, over real sockets, and see that it goes on.

    python -m tests.fuzz --seconds 60 --seed 7

Clients of every kind (SMTP, submission, LMTP, TLS from the first byte, behind a proxy) go through
dialogues of :mod:`tests.dialogues`, cut into any packets, and end them in any way. All the while
the replies must be well-formed, a proper client's mail must be taken and kept, the memory bounded,
and the log without a traceback, a control character or a forged line. Another process
compares the decoder of DATA with the reference of :mod:`tests.test_content`, stream after stream.

The exit status is 1 if there was a fault. The seed gives the same dialogues again, though not at
the same moments; with an even one the service has patience with any number of mistakes. With
``--connect`` a service that runs already is spoken to, as far as one can see it from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import shutil
import signal
import socket
import ssl
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from smtpsvc.tlstesting import certificate
from tests.dialogues import FORGED, KINDS, PASSWORD, USER, Dialogue, make
from tests.live import Server
from tests.support import MESSAGE
from tests.test_content import ALPHABET, PIECES, decode, reference

#: Connections at a time.
CLIENTS = 24
#: The service may not use more than so many bytes; a fresh one has some 60 MiB.
MEMORY = 256 * 1024 * 1024
#: A reply, or the end of a connection, may take so many seconds.
PATIENCE = 90.0
#: Between two deliveries of the proper client.
PAUSE = 0.5
#: More of them are not told.
FAULTS = 20

_LINE = re.compile(rb"([2345][0-9]{2})([ -])([^\x00-\x1f\x7f]*)")
_STARTTLS_TAKEN = b"220 2.0.0 Ready to start TLS\r\n"
_OPTIONS = (
    "--hostname", "mx.example", "--trusted-proxies", "127.0.0.1", "--xclient-login", "--allow-insecure-auth",
    "--auth", f"memory:{USER.decode()}:{PASSWORD.decode()}", "--enable", "PRDR", "--enable", "DELIVERBY",
    "--enable", "FUTURERELEASE", "--timeout", "3", "--data-timeout", "3", "--max-message-size", "64K",
)  # fmt: skip
_PATIENT = ("--max-errors", "0", "--max-junk", "0", "--max-auth-failures", "0", "--max-refused-recipients", "0")
_LISTENERS = {"submission": "--submission", "lmtp": "--lmtp", "smtps": "--smtps"}


@dataclass
class Result:
    """What a run came to."""

    #: By the kind of listener.
    connections: Counter[str] = field(default_factory=Counter)
    #: By the first digit of their code.
    replies: Counter[str] = field(default_factory=Counter)
    #: Mails of the proper client.
    deliveries: int = 0
    slowest: float = 0.0
    #: The most memory that the service used.
    memory: int = 0
    #: Streams that the decoder was compared on.
    streams: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, sentence: str) -> None:
        """Note what should not happen."""
        if len(self.faults) < FAULTS:
            print(f"FAULT: {sentence}", file=sys.stderr, flush=True)
        self.faults.append(sentence)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.connections.items()))
        codes = ", ".join(f"{count} {digit}xx" for digit, count in sorted(self.replies.items()))
        return (
            f"{sum(self.connections.values())} connections ({kinds}), {sum(self.replies.values())} replies ({codes}), "
            f"{self.deliveries} mails beside them (slowest {self.slowest:.2f} s), {self.memory >> 20} MiB at most, "
            f"{self.streams} streams decoded, {len(self.faults)} faults"
        )


def check_replies(output: bytes, cut: bool) -> list[bytes]:
    """
    Look at all that a server sent on a connection.

    :param cut: the connection may have ended within a reply.
    :returns: the codes.
    :raises ValueError: if it is no sequence of well-formed replies (RFC 5321 §4.2).
    """
    *lines, rest = output.split(b"\r\n")
    if rest and not cut:
        raise ValueError(f"the last reply has no end: {rest[:100]!r}")
    codes = []
    before = b""
    for line in lines:
        match = _LINE.fullmatch(line)
        # RFC 5321 §4.5.3.1.5; RFC 4954 §4 has longer challenges.
        if match is None or (len(line) > 510 and match[1] != b"334") or (before and match[1] != before):
            raise ValueError(f"{line[:100]!r} is no reply line, or none of this reply")
        before = match[1] if match[2] == b"-" else b""
        if not before:
            codes.append(match[1])
    if before and not cut:
        raise ValueError("the last reply has no last line")
    return codes


class Fuzz:
    """
    A run against one service.

    :param ports: of the listeners, by kind, on *host*.
    :param server: the process, if it is ours.
    """

    def __init__(self, host: str, ports: dict[str, int], seed: int, server: Server | None, clients: int) -> None:
        self._host = host
        self._ports = ports
        self._seed = seed
        self._server = server
        self._clients = clients
        self._end = 0.0
        self.result = Result()
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    async def run(self, seconds: float) -> None:
        """Send dialogues until the time is over."""
        self._end = time.monotonic() + seconds
        await asyncio.gather(self._deliver(), *map(self._client, range(self._clients)))

    async def _client(self, number: int) -> None:
        count = 0
        while time.monotonic() < self._end and len(self.result.faults) < FAULTS:
            name = f"{self._seed}-{number}-{count}"
            count += 1
            choices = Random(name)
            kind = choices.choice(list(self._ports))
            dialogue = make(choices, kind)
            self.result.connections[kind] += 1
            try:
                await asyncio.wait_for(self._converse(kind, dialogue), PATIENCE)
            except ValueError as error:
                self.result.fault(f"dialogue {name} ({kind}): {error}; it was {dialogue!r:.3000}")
            except TimeoutError:
                self.result.fault(f"dialogue {name} ({kind}) had no end; it was {dialogue!r:.3000}")
            except ConnectionRefusedError:
                self.result.fault(f"dialogue {name} ({kind}): nobody listens any more")
            except (OSError, EOFError, ssl.SSLError):
                # We broke the connection, or it was closed with something of ours unread.
                pass

    async def _converse(self, kind: str, dialogue: Dialogue) -> None:
        context = self._tls if kind == "smtps" else None
        reader, writer = await asyncio.open_connection(self._host, self._ports[kind], ssl=context, limit=1 << 20)
        output = bytearray()
        collecting = asyncio.ensure_future(_collect(reader, output))
        lost = False
        try:
            for packet in dialogue.packets:
                writer.write(packet)
                await writer.drain()
                await asyncio.sleep(0)
            if dialogue.handshake and context is None:
                await self._handshake(writer, collecting, output)
            if dialogue.ending == "quit":
                writer.write(b"\r\nQUIT\r\n")
            elif dialogue.ending == "half" and writer.can_write_eof():
                writer.write_eof()
            elif dialogue.ending == "reset":
                lost = True
                raw = writer.get_extra_info("socket")
                if raw is not None and not writer.is_closing():
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            elif dialogue.ending == "close":
                lost = True
                writer.close()
            await collecting
        except (OSError, ssl.SSLError):
            lost = True
        finally:
            collecting.cancel()
            writer.transport.abort()
        plain, taken, _ = bytes(output).partition(_STARTTLS_TAKEN)
        for code in check_replies(plain + taken, lost or collecting.cancelled() or bool(taken)):
            self.result.replies[code[:1].decode()] += 1

    async def _handshake(self, writer: Any, collecting: asyncio.Future[Any], output: bytearray) -> None:
        """Begin TLS, if the last reply lets us."""
        for _ in range(50):
            if output.endswith(_STARTTLS_TAKEN) or collecting.done():
                break
            await asyncio.sleep(0.02)
        if output.endswith(_STARTTLS_TAKEN):
            await writer.start_tls(self._tls)
            writer.write(b"EHLO again.example\r\n" + MESSAGE + b"QUIT\r\n")

    async def _deliver(self) -> None:
        """Send proper mails, one after the other."""
        while time.monotonic() < self._end and len(self.result.faults) < FAULTS:
            begun = time.monotonic()
            name = b"probe-%d" % self.result.deliveries
            try:
                await asyncio.wait_for(self._mail(name), PATIENCE)
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                self.result.fault(f"{name.decode()} was not taken: {error!r}")
            self.result.slowest = max(self.result.slowest, time.monotonic() - begun)
            self.result.deliveries += 1
            self._look_at_process()
            await asyncio.sleep(PAUSE)

    async def _mail(self, name: bytes) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._ports["smtp"])
        content = b"X-Probe: %b\r\n\r\ntext\r\n.\r\n" % name
        try:
            for line in (b"", b"EHLO probe.example\r\n", b"MAIL FROM:<p@x.example>\r\n", b"RCPT TO:<q@y.example>\r\n",
                         b"DATA\r\n", content, b"QUIT\r\n"):  # fmt: skip
                writer.write(line)
                answer = await reader.readuntil(b"\r\n")
                while answer[3:4] == b"-":
                    answer = await reader.readuntil(b"\r\n")
                if answer[:1] not in b"23":
                    raise ValueError(f"{line!r} was answered {answer!r}")
        finally:
            writer.close()

    def _look_at_process(self) -> None:
        server = self._server
        if server is None:
            return
        if server.process.poll() is not None:
            self.result.fault(f"the service has ended with {server.process.returncode}")
            return
        self.result.memory = server.peak_memory()
        if self.result.memory > MEMORY:
            self.result.fault(f"the service has used {self.result.memory >> 20} MiB")


async def _collect(reader: asyncio.StreamReader, output: bytearray) -> None:
    while data := await reader.read(65536):
        output += data


def check_end(server: Server, result: Result) -> None:
    """Stop the service, and look at its log and its mails."""
    status = server.stop()
    if status not in (0, -signal.SIGTERM):
        result.fault(f"the service ended with {status}")
    log = server.log.read_bytes()
    for line in log.splitlines():
        if line.lstrip().startswith(FORGED):
            result.fault(f"a line of the log was forged: {line!r}")
    control = re.search(rb"[^\n]*[\x00-\x08\x0b-\x1f\x7f][^\n]*", log)
    if control is not None:
        result.fault(f"a control character is in the log: {control[0]!r:.300}")
    for word in (b"Traceback", b"Unhandled", b"#critical"):
        place = log.find(word)
        if place >= 0:
            shown = log[max(0, place - 300) : place + 3000].decode("utf-8", "replace")
            result.fault(f"{log.count(word)} times {word.decode()} is in the log: {shown}")
    kept = Counter(re.findall(rb"(?m)^X-Probe: (probe-\d+)\r$", b"".join(server.mails())))
    missing = [number for number in range(result.deliveries) if kept[b"probe-%d" % number] != 1]
    if missing:
        result.fault(f"mails of the proper client are not there once: {missing[:20]}")


def compare_decoder(seed: int, end: float, found: Any) -> None:
    """
    Compare the decoder of DATA with the reference until a moment, in a process of its own.

    :param end: by ``time.monotonic``.
    :param found: a connection that is sent the number of streams, and a sentence for each difference.
    """
    choices = Random(seed)
    alphabet = ALPHABET + PIECES
    count = 0
    faults = []
    while time.monotonic() < end and not faults:
        for _ in range(1000):
            count += 1
            # Two ends, so that there is one whatever was drawn before.
            stream = b"".join([*choices.choices(alphabet, k=choices.randrange(24)), b"\r\n.\r\n.\r\n"])
            normalize, nul = choices.random() < 0.5, choices.random() < 0.2
            cuts = sorted(choices.randrange(len(stream) + 1) for _ in range(choices.randrange(4)))
            pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
            wanted = reference(stream, normalize, nul)
            got = decode(pieces, normalize=normalize, nul=nul)
            if got != wanted:
                faults.append(f"decoder: {pieces!r} (normalize={normalize}, nul={nul}) gave {got!r}, not {wanted!r}")
    found.send((count, faults))


def run(seconds: float, seed: int, clients: int = CLIENTS, connect: str = "") -> Result:
    """
    Run against a service of our own, or one that runs already.

    :param connect: ``HOST:PORT`` of its SMTP listener.
    """
    ours, theirs = multiprocessing.Pipe()
    decoding = multiprocessing.get_context("fork").Process(
        target=compare_decoder, args=(seed, time.monotonic() + seconds, theirs)
    )
    decoding.start()
    home = tempfile.mkdtemp(prefix="fuzz-")
    server = None
    try:
        if connect:
            host, _, port = connect.rpartition(":")
            fuzz = Fuzz(host, {"smtp": int(port)}, seed, None, clients)
        else:
            # With the usual patience for mistakes few dialogues get far.
            server = _serve(home, *(() if seed % 2 else _PATIENT))
            fuzz = Fuzz("127.0.0.1", _ports(server), seed, server, clients)
        asyncio.run(fuzz.run(seconds))
        if server is not None and server.process.poll() is None:
            check_end(server, fuzz.result)
        fuzz.result.streams, faults = ours.recv()
        for fault in faults:
            fuzz.result.fault(fault)
    finally:
        if server is not None:
            server.close()
        decoding.kill()
        decoding.join()
        shutil.rmtree(home, ignore_errors=True)
    return fuzz.result


def _serve(home: str, *more: str) -> Server:
    path = Path(home, "certificate.pem")
    path.write_bytes(b"".join(certificate("mx.example")))
    listeners = [word for option in _LISTENERS.values() for word in (option, "tcp:0:interface=127.0.0.1")]
    proxied = ("--port", "haproxy:tcp:0:interface=127.0.0.1")
    return Server(*_OPTIONS, *more, *proxied, *listeners, "--tls-certificate", str(path), directory=home)


def _ports(server: Server) -> dict[str, int]:
    text = server.log.read_text()
    smtp, proxied = server.ports("SMTP")[0], re.search(r"127\.0\.0\.1:(\d+) behind a proxy", text)
    smtps = re.search(r"127\.0\.0\.1:(\d+) with implicit TLS", text)
    assert proxied is not None and smtps is not None, text
    submission = [port for port in server.ports("submission") if port != int(smtps[1])]
    found = {
        "smtp": smtp, "haproxy": int(proxied[1]), "smtps": int(smtps[1]), "submission": submission[0],
        "lmtp": server.ports("LMTP")[0],
    }  # fmt: skip
    assert found.keys() == set(KINDS)
    return found


def main() -> int:
    """Read the options and run; the exit status is given."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[1])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--connect", default="", metavar="HOST:PORT", help="a service that runs already")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    result = run(options.seconds, options.seed, options.clients, options.connect)
    print(f"{options.seconds:g} s: {result}", flush=True)
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
