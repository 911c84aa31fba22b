"""
What the tests of TLS share: certificates made once, and a look at the log.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.testing import ScriptedBackend, clocked_factory
from smtpsvc.tls import CertificateStore
from smtpsvc.tlstesting import Authority, TLSWire
from tests.support import HOST, settings_with

#: Issues what servers of these tests show.
AUTHORITY = Authority()


@cache
def pair(*names: str) -> tuple[bytes, bytes]:
    """Give a certificate and its key; the same ones for the same names."""
    return AUTHORITY.issue(*(names or (HOST, "localhost", "127.0.0.1")))


@cache
def store(client_ca: bytes = b"") -> CertificateStore:
    """Give a store that has read one certificate, for :data:`~tests.support.HOST`."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        both, ca = home / "both.pem", home / "ca.pem"
        both.write_bytes(b"".join(pair()))
        ca.write_bytes(client_ca)
        made = CertificateStore([str(both)], client_ca=str(ca) if client_ca else "")
        made.load()
    return made


def factory(backend: Any = None, *, tls: Any = None, implicit_tls: bool = False, **settings: Any) -> tuple[Any, Clock]:
    """Make a factory that has TLS, and its clock."""
    options = {name: settings.pop(name) for name in ("role", "extensions", "monitors", "portal") if name in settings}
    options.update(tls=tls or store(), implicit_tls=implicit_tls)
    return clocked_factory(backend or ScriptedBackend(), settings_with(**settings), **options)


def connect(backend: Any = None, **options: Any) -> TLSWire:
    """Connect to a factory that has TLS, and say EHLO; replies and counts start afresh."""
    wire = TLSWire(factory(backend, **options)[0])
    wire.greeted()
    return wire


def secured(backend: Any = None, **options: Any) -> TLSWire:
    """Connect, begin TLS by STARTTLS, and forget the replies; EHLO is to be said."""
    wire = connect(backend, **options)
    wire.say("STARTTLS")
    wire.secure().forget()
    return wire


class TLSTestCase(SynchronousTestCase):
    """Sees what is logged, as text."""

    def setUp(self) -> None:
        """Watch the log."""
        self.events: list[Any] = []
        watch: Callable[[Any], None] = self.events.append
        globalLogPublisher.addObserver(watch)
        self.addCleanup(globalLogPublisher.removeObserver, watch)

    def logged(self, words: str = "") -> list[str]:
        """Give the lines of the log that have *words*, without the reactor's own."""
        lines = [formatEvent(event) for event in self.events if str(event.get("log_namespace")).startswith("smtpsvc")]
        return [line for line in lines if words in line]
