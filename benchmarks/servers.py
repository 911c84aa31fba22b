"""
The servers of a benchmark, as processes; the CPU time and the memory that they use.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

#: Seconds that a server may take to start, or to end.
PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server is to listen, and with which certificate."""

    port: int
    tls_port: int
    certificate: str
    key: str
    directory: Path

    def fill(self, word: str) -> str:
        """Fill in ``{port}`` and the like."""
        for name in ("port", "tls_port", "certificate", "key", "directory"):
            word = word.replace(f"{{{name}}}", str(getattr(self, name)))
        return word


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """
    A server that can be measured.

    :ivar command: words with ``{port}``, ``{tls_port}``, ``{certificate}``, ``{key}`` and ``{directory}``.
    :ivar module: that must be there.
    :ivar program: that must be there.
    :ivar secure: it speaks TLS too.
    :ivar chunking: it has BDAT.
    :ivar special: it is measured only by workloads that name it.
    """

    name: str
    command: Sequence[str]
    module: str = ""
    program: str = ""
    secure: bool = True
    chunking: bool = True
    special: bool = False

    def missing(self) -> str:
        """Say what it needs and is not there; "" if nothing."""
        if self.module and importlib.util.find_spec(self.module) is None:
            return f"{self.name} needs the package {self.module}: pip install 'smtpsvc[bench]'"
        if self.program and shutil.which(self.program) is None:
            return f"{self.name} needs the program {self.program} (Debian: postfix)"
        return ""


def ours(name: str, *options: str, special: bool = False) -> Peer:
    """
    Give our service with some options.

    The limits on connections are above any load here; all else is as it is without options, the
    summary line for each message too.
    """
    # The lines go to a file, as they would: the price of writing them counts.
    words = ("-n", "--pidfile=", "--logfile={directory}/log", "smtpsvc")
    limits = ("--max-connections=20000", "--max-connections-per-client=0")
    sizes = ("--max-message-size=1G", "--max-recipients=1000")
    ports = ("--port=tcp:{port}:interface=127.0.0.1", "--port=implicit-tls:tcp:{tls_port}:interface=127.0.0.1")
    secret = ("--tls-certificate={certificate}", "--tls-key={key}")
    run = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
    command = (sys.executable, "-c", run, *words, *ports, *secret, *limits, *sizes, *options)
    return Peer(name=name, command=command, special=special)


def _python(name: str, module: str) -> Peer:
    words = ("{port}", "{tls_port}", "{certificate}", "{key}")
    command = (sys.executable, "-m", f"benchmarks.peers.{module}_peer", *words)
    return Peer(name=name, command=command, module=name.replace("-", "."), chunking=False)


def _sink() -> Peer:
    user = ("-u", "nobody") if os.getuid() == 0 else ()
    command = ("smtp-sink", *user, "-4", "-m", "8000", "127.0.0.1:{port}", "1000")
    return Peer(name="smtp-sink", command=command, program="smtp-sink", secure=False, chunking=False)


#: All that can be named on the command line.
PEERS: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (
        ours("smtpsvc", "--backend=null:"),
        ours("smtpsvc-stock", "--backend=null:", "--transport=stock"),
        ours("smtpsvc-maildir", "--backend=maildir:{directory}/Maildir", special=True),
        ours("smtpsvc-classic", "--backend=python:benchmarks.classic.backend", special=True),
        ours("smtpsvc-2-workers", "--backend=null:", "--workers=2", special=True),
        _python("aiosmtpd", "aiosmtpd"),
        _python("twisted-mail", "twisted_mail"),
        _sink(),
    )
}


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _family(pid: int) -> list[int]:
    """Give a process and all that it has started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


class Server:
    """
    A peer that runs.

    :param core: the CPU that it is bound to; None for any.
    :raises RuntimeError: if it does not start.
    :ivar taken: messages that its clients were told were taken.
    """

    def __init__(self, peer: Peer, certificate: tuple[str, str], directory: Path, core: int | None) -> None:
        self.peer = peer
        self.taken = 0
        directory.mkdir()
        certificate_file, key = certificate
        self.place = Place(
            port=free_port(), tls_port=free_port(), certificate=certificate_file, key=key, directory=directory
        )
        self._counts = directory / "counts"
        environment = {**os.environ, "BENCH_COUNTS": str(self._counts), "PYTHONPATH": str(ROOT)}
        with (directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [self.place.fill(word) for word in peer.command],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509
            )
        try:
            self._wait()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.place.port), timeout=5) as one:
                    if one.recv(100).startswith(b"220"):
                        return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > end:
                output = (self.place.directory / "output").read_text(errors="replace")
                raise RuntimeError(f"{self.peer.name} did not start: {output[-500:]}")
            time.sleep(0.05)

    def cpu(self) -> float:
        """Give the CPU seconds that its processes have used, threads too."""
        total = 0
        for pid in _family(self._process.pid):
            try:
                for task in Path(f"/proc/{pid}/task").iterdir():
                    total += int((task / "schedstat").read_text().split()[0])
            except OSError:
                # It has gone.
                continue
        return total / 1e9

    def memory(self, field: str = "VmRSS") -> int:
        """Give the KiB of memory that its processes have, by a field of ``/proc/PID/status``."""
        total = 0
        for pid in _family(self._process.pid):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
        return total

    def stop(self) -> str:
        """
        End it, and compare what was taken with what it says.

        :returns: a sentence; "" if the peer does not count.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        kept = self.place.directory / "Maildir" / "new"
        if self._counts.exists():
            delivered = int(self._counts.read_text().split()[0])
        elif kept.exists():
            delivered = sum(1 for _ in os.scandir(kept))
        else:
            return ""
        verdict = "the same" if delivered == self.taken else "NOT the same"
        return f"{self.peer.name}: {self.taken} messages acknowledged, {delivered} delivered: {verdict}"
