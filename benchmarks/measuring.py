"""
Measure servers in turns: a short try of each, then rounds that visit all of them.

So whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.servers import ROOT, Peer, Server
from benchmarks.workloads import WORKLOADS, Load, Workload

#: Seconds that a round of the players may take.
PATIENCE: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """
    What one round came to.

    :ivar wall: work per second.
    :ivar cpu: work per second of the server's CPU time; for memory the amount, as *wall* is.
    :ivar p50: the median latency, in ms.
    :ivar p99: the latency that one in a hundred exceeds, in ms.
    """

    wall: float
    cpu: float
    p50: float = 0.0
    p99: float = 0.0


@dataclass(slots=True)
class Bench:
    """
    A run: servers, a machine, and what was measured.

    :ivar directory: for files that nobody keeps.
    :ivar certificate: the files of certificate and key.
    :ivar player: the program that plays clients.
    :ivar cores: of the servers and of the players; None if nobody is bound.
    :ivar results: rounds by workload and peer.
    """

    directory: Path
    certificate: tuple[str, str]
    player: Path
    cores: tuple[int, int] | None
    rounds: int = 3
    #: Seconds that a round is to take.
    seconds: float = 0.7
    idle: int = 5000
    results: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    _started: int = 0

    def run(self, peers: Sequence[Peer], names: Iterable[str], show: Callable[[str], None]) -> None:
        """
        Measure workloads one after the other.

        :param show: is called with the name of each workload that is done.
        """
        names = list(names)
        usual = [peer for peer in peers if not peer.special]
        shared = [name for name in names if WORKLOADS[name].unit not in ("KiB", "MiB") and not WORKLOADS[name].only]
        with ExitStack() as stack:
            servers = self._start_all(usual if shared else [], stack)
            for name in shared:
                self._take_turns(name, servers)
                show(name)
        for name in names:
            workload = WORKLOADS[name]
            if name in shared:
                continue
            if workload.only:
                with ExitStack() as stack:
                    named = [peer for peer in peers if peer.name in workload.only]
                    self._take_turns(name, self._start_all(named, stack, workload.bound))
            else:
                # Memory is that of a process which has done nothing else.
                for peer in usual:
                    with ExitStack() as stack:
                        for server in self._start_all([peer], stack):
                            self._note(name, server, self._memory(name, server))
            show(name)

    def median(self, workload: str, peer: str, figure: str = "cpu") -> float | None:
        """Give the median of a figure over the rounds; None if there were none."""
        rounds = self.results.get(workload, {}).get(peer)
        return statistics.median(getattr(one, figure) for one in rounds) if rounds else None

    def growth(self, peers: Sequence[Peer], counts: Sequence[int]) -> dict[str, dict[int, float]]:
        """
        Measure what a message costs as connections grow.

        :returns: microseconds of CPU by peer and number of connections, each a median.
        """
        found: dict[str, dict[int, float]] = {}
        with ExitStack() as stack:
            servers = self._start_all(peers, stack)
            for count in counts:
                load = Load(dialogue=WORKLOADS["reuse-10"].load.dialogue, connections=count)  # type: ignore[union-attr]
                workload = Workload(what="", load=load, least=4 * count, most=60_000)
                for server in servers:
                    rounds = [self._play(server, workload, max(3000, 4 * count)) for _ in range(self.rounds)]
                    costs = [1e6 / one.cpu for one in rounds if one is not None and one.cpu]
                    if costs:
                        found.setdefault(server.peer.name, {})[count] = statistics.median(costs)
        return found

    def _start_all(self, peers: Iterable[Peer], stack: ExitStack, bound: bool = True) -> list[Server]:
        return [server for peer in peers if (server := self._start(peer, stack, bound))]

    def _start(self, peer: Peer, stack: ExitStack, bound: bool) -> Server | None:
        sentence = peer.missing()
        if not sentence:
            self._started += 1
            directory = self.directory / f"{peer.name}-{self._started}"
            try:
                server = Server(peer, self.certificate, directory, self.cores[0] if self.cores and bound else None)
            except RuntimeError as error:
                sentence = str(error)
            else:
                stack.callback(lambda: self._remark(server.stop()))
                return server
        self._remark(sentence)
        return None

    def _remark(self, sentence: str) -> None:
        if sentence and sentence not in self.remarks:
            self.remarks.append(sentence)

    def _note(self, name: str, server: Server, figures: Figures | None) -> None:
        if figures is not None:
            self.results.setdefault(name, {}).setdefault(server.peer.name, []).append(figures)

    def _take_turns(self, name: str, servers: Sequence[Server]) -> None:
        workload = WORKLOADS[name]
        counts = {}
        for server in servers:
            if (workload.secured and not server.peer.secure) or (workload.chunking and not server.peer.chunking):
                continue
            first = self._play(server, workload, workload.least)
            if first is not None:
                amount = first.wall / self._share(workload) * self.seconds
                counts[server] = int(max(workload.least, min(workload.most, amount)))
        for _ in range(self.rounds):
            for server, count in counts.items():
                self._note(name, server, self._play(server, workload, count))

    @staticmethod
    def _share(workload: Workload) -> float:
        """Give how much work a message is, in the unit of the workload."""
        if workload.unit != "MB/s":
            return 1.0
        if workload.load is None:
            return 25 * 1.048576
        return workload.load.octets() / 1e6

    def _play(self, server: Server, workload: Workload, count: int) -> Figures | None:
        before = server.cpu()
        if workload.secured:
            port = server.place.port if workload.secured == "starttls" else server.place.tls_port
            clients = 1 if workload.secured == "data" else 8
            words = [str(port), workload.secured, str(count), str(clients), str(25 << 20)]
            played = self._run([sys.executable, "-m", "benchmarks.secured", *words], b"", workload.bound)
            said = workload.secured == "data"
        else:
            load = workload.load
            assert load is not None
            command = [str(self.player), "127.0.0.1", str(server.place.port), str(load.connections), str(count)]
            played = self._run(command, load.script(), workload.bound)
            said = True
        if played is None:
            self._remark(f"{server.peer.name}: a round failed")
            return None
        used = server.cpu() - before
        if said:
            server.taken += played["messages"]
        work = played["messages"] * self._share(workload)
        return Figures(
            wall=work / played["seconds"], cpu=work / used if used else 0, p50=played["p50_ms"], p99=played["p99_ms"]
        )

    def _run(self, command: list[str], script: bytes, bound: bool) -> dict[str, Any] | None:
        core = self.cores[1] if self.cores and bound else None
        try:
            done = subprocess.run(
                command,
                input=script,
                capture_output=True,
                check=False,
                timeout=PATIENCE,
                cwd=ROOT,
                preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            print(done.stderr.decode(errors="replace")[-500:], file=sys.stderr)
            return None
        played: dict[str, Any] = json.loads(done.stdout)
        return played

    def _memory(self, name: str, server: Server) -> Figures | None:
        before = server.memory()
        if name == "idle":
            with ExitStack() as stack:
                _raise_the_limit()
                for _ in range(self.idle):
                    stack.enter_context(_greeted(server.place.port))
                each = (server.memory() - before) / self.idle
                latency = self._play(server, Workload(what="", load=Load(dialogue=_fresh(), connections=1)), 200)
            p50, p99 = (latency.p50, latency.p99) if latency else (0.0, 0.0)
            return Figures(wall=each, cpu=each, p50=p50, p99=p99)
        if self._play(server, WORKLOADS[name], 1) is None:
            return None
        added = (server.memory("VmHWM") - before) / 1024
        return Figures(wall=added, cpu=added)


def _fresh() -> Callable[[Load], bytes]:
    load = WORKLOADS["small-10"].load
    assert load is not None
    return load.dialogue


def _raise_the_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _greeted(port: int) -> socket.socket:
    """Open a connection and say EHLO."""
    one = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    one.recv(512)
    one.sendall(b"EHLO bench.example.org\r\n")
    one.recv(4096)
    return one
