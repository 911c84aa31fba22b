from lists import ListBackend
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc import Reply
from smtpsvc.testing import Wire, clocked_factory


class Directory:
    """Answers when the test says so."""

    def __init__(self):
        self.answer = Deferred()

    def knows(self, address):
        return self.answer


class Archive:
    """Remembers what it is given."""

    def __init__(self):
        self.kept = []

    def keep(self, envelope, content):
        self.kept.append((str(envelope.sender), bytes(content)))


class ListTests(SynchronousTestCase):
    def setUp(self):
        self.directory = Directory()
        self.archive = Archive()
        factory, self.clock = clocked_factory(ListBackend(self.directory, self.archive))
        self.wire = Wire(factory).greeted()

    def test_unknown_list(self):
        """Mail for a list that does not exist is refused."""
        self.wire.say("MAIL FROM:<a@x.example>", "RCPT TO:<nobody@lists.example>")
        self.directory.answer.callback(False)
        self.assertEqual(self.wire.last_reply, Reply(550, "No such list", "5.1.1"))

    def test_waiting(self):
        """While the directory is asked, the client waits, and so do the commands it sent ahead."""
        self.wire.say("MAIL FROM:<a@x.example>", "RCPT TO:<all@lists.example>", "DATA")
        self.assertEqual(self.wire.codes, [250])
        self.directory.answer.callback(True)
        self.assertEqual(self.wire.codes, [250, 250, 354])

    def test_message(self):
        """A message for a list is in the archive, with Received: in front."""
        self.directory.answer.callback(True)
        self.wire.say("MAIL FROM:<a@x.example>", "RCPT TO:<all@lists.example>", "DATA", "Subject: hi", "", "Hello", ".")
        self.assertEqual(self.wire.codes, [250, 250, 354, 250])
        [(sender, content)] = self.archive.kept
        self.assertEqual(sender, "a@x.example")
        self.assertTrue(content.startswith(b"Received: from client.example"))
        self.assertTrue(content.endswith(b"Subject: hi\r\n\r\nHello\r\n"))

    def test_slow_directory(self):
        """A directory that does not answer is given up after five minutes."""
        self.wire.say("MAIL FROM:<a@x.example>", "RCPT TO:<all@lists.example>")
        self.clock.advance(302)
        self.assertEqual(self.wire.last_reply.code, 451)
