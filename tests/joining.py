"""
A program that serves in workers of its own, as the documentation shows it: ``python -m tests.joining DIRECTORY``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.python import log

from smtpsvc.backends.null import NullBackend
from smtpsvc.handover import HeldPorts
from smtpsvc.service import MailService
from smtpsvc.settings import Role
from smtpsvc.worker import Worker
from smtpsvc.workers import Workers

running: Any = reactor


def listeners(directory: str) -> list[tuple[str, Role]]:
    """Say where to listen."""
    return [("tcp:0:interface=127.0.0.1", Role.SMTP), (f"unix:{directory}/socket", Role.LMTP)]


def parent(directory: str) -> None:
    """Open the ports, start workers, and write where they listen when they do."""
    log.startLogging(sys.stdout)
    ports = HeldPorts(running)
    opened: list[Any] = []
    for description, _ in listeners(directory):
        serverFromString(ports, description).listen(Factory()).addCallback(opened.append)
    workers = Workers([sys.executable, "-m", "tests.joining", directory, "worker"], 2, ports, reactor=running)

    def ask(_: object) -> None:
        workers.ask(b"number").addCallback(told)

    def told(answers: list[bytes]) -> None:
        print("answers:", b" ".join(answers).decode())
        Path(directory, "port").write_text(str(opened[0].getHost().port))

    workers.listening.addCallback(ask)
    for stop in (ports.close, workers.stopService):
        running.addSystemEventTrigger("before", "shutdown", stop)
    running.callWhenRunning(workers.startService)
    running.run()


def worker(directory: str) -> None:
    """Serve."""
    joined = Worker.join(running)
    mail = MailService(NullBackend())
    for description, role in listeners(directory):
        mail.listen(serverFromString(joined.ports, description), role)
    joined.answer(b"number", lambda: str(joined.number).encode())
    joined.serve(mail)
    running.run()


if __name__ == "__main__":
    (worker if sys.argv[2:] else parent)(sys.argv[1])
