"""
Tests of smtpsvc.backends.null: it takes everything, and costs nothing.
"""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.backends.null import NullBackend, make
from smtpsvc.interfaces import IBackend, IDelivery, ISession
from tests.disk import envelope


class NullTests(SynchronousTestCase):
    """Everything is taken, nothing kept."""

    def setUp(self) -> None:
        self.backend = NullBackend()
        self.envelope = envelope()
        self.session = self.backend.open_session(self.envelope.peer, None)
        self.delivery = self.session.data(self.envelope)

    def test_interfaces(self) -> None:
        """Backend, session and delivery provide their interfaces."""
        verifyObject(IBackend, self.backend)
        verifyObject(ISession, self.session)
        verifyObject(IDelivery, self.delivery)

    def test_taken(self) -> None:
        """Content and message are taken, without waiting."""
        self.assertIsNone(self.delivery.write(b"x"))
        self.assertIsNone(self.delivery.finish())

    def test_abort(self) -> None:
        """An abort has nothing to do."""
        self.assertIsNone(self.delivery.abort(Failure(ConnectionLost())))

    def test_shared(self) -> None:
        """No object is made for a connection or a message."""
        self.assertIs(self.backend.open_session(self.envelope.peer, None), self.session)
        self.assertIs(self.session.data(self.envelope), self.delivery)

    def test_make(self) -> None:
        """An argument is refused with a sentence."""
        self.assertIsInstance(make("", None), NullBackend)
        self.assertIn("takes no argument", str(self.assertRaises(ValueError, make, "x", None)))
