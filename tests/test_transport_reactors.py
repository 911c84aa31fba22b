"""
Tests of smtpsvc.transport under each reactor that it is for: all its tests, and how a reactor that stops leaves it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.live import ROOT

#: The modules to run; all that are named like this one.
MODULES = sorted(
    f"tests.{path.stem}" for path in Path(__file__).parent.glob("test_transport*.py") if path != Path(__file__)
)

#: Seconds that a run may take; it takes ten on an idle machine.
PATIENCE = 240.0

#: Stops the reactor from inside dataReceived, with connections that wait for one thing or another, or for nothing.
STOP = """
import socket, sys
from twisted.application.reactors import installReactor
installReactor(sys.argv[1])
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from smtpsvc import transport
from smtpsvc.nest import Nest

class Noting(Protocol):
    number = -1
    def connectionMade(self):
        Noting.number += 1
        self.number = Noting.number
        if self.number & 1:
            self.transport.pauseProducing()
        if self.number & 2:
            self.transport.write(bytes(16 << 20))
        if self.number == 4:
            clients[4].send(b"stop")
    def dataReceived(self, data):
        reactor.stop()
        self.transport.write(b"one moment")
    def connectionLost(self, reason):
        print(self.number, reason.type.__name__)

port = transport.listen(reactor, 0, Factory.forProtocol(Noting), interface="127.0.0.1")
clients = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(5)]
reactor.run()
print("left", [reader for reader in reactor.getReaders() if isinstance(reader, Nest)])
"""


class ReactorTests:
    """The tests under one reactor."""

    name: str

    def run_python(self, *arguments: str) -> tuple[int, str]:
        """Run Python; give its status and what it printed. One that hangs is ended, and prints where."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                process.wait()
            output.seek(0)
            return process.returncode, output.read().decode(errors="replace")

    def test_all(self: Any) -> None:
        """All tests of the transport pass."""
        with tempfile.TemporaryDirectory() as directory:
            status, output = self.run_python(
                *("-m", "twisted.trial", "--reactor", self.name, "--temp-directory", f"{directory}/trial"), *MODULES
            )
        self.assertEqual(status, 0, output)
        self.assertRegex(output, r"PASSED \(successes=\d+\)")

    def test_stopped(self: Any) -> None:
        """When it stops, each connection is told once that it is lost, whatever it waits for, and nothing is left."""
        status, output = self.run_python("-c", STOP, self.name)
        expected = [*(f"{number} ConnectionLost" for number in range(5)), "left []"]
        self.assertEqual((status, sorted(output.splitlines())), (0, expected))


class EpollTests(ReactorTests, SynchronousTestCase):
    name = "epoll"


class PollTests(ReactorTests, SynchronousTestCase):
    name = "poll"


class SelectTests(ReactorTests, SynchronousTestCase):
    name = "select"


class AsyncioTests(ReactorTests, SynchronousTestCase):
    name = "asyncio"
