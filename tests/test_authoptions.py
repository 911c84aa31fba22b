"""
Tests of the options that say who may log in.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.plugins import CheckerFactory, MechanismFactory, find_mechanisms
from smtpsvc.tap import Options, makeService
from smtpsvc.testing import Wire
from tests.logins import PASSWORD, offered, plain

MEMORY = f"memory:joe:{PASSWORD}"


def parsed(*arguments: str) -> Options:
    """Read arguments."""
    options = Options()
    options.parseOptions(["--backend", "null:", *arguments])
    return options


def printed(*arguments: str) -> str:
    """Read arguments that print something and exit with 0; give what is printed."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()):
        try:
            parsed(*arguments)
        except SystemExit as stop:
            assert not stop.code, stop
    return out.getvalue()


class AuthTests(SynchronousTestCase):
    def connected(self, *arguments: str) -> Wire:
        """Connect to the service that arguments ask for."""
        service: Any = makeService(parsed(*arguments))
        wire = Wire(service.factory())
        # Its deadlines are the real reactor's.
        self.addCleanup(wire.hang_up)
        return wire

    def test_none(self) -> None:
        """Without --auth nobody can log in."""
        self.assertEqual(offered(self.connected()), [])

    def test_login(self) -> None:
        """With it clients can, where the link permits."""
        wire = self.connected("--auth", MEMORY, "--allow-insecure-auth")
        self.assertEqual(offered(wire), ["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"])
        self.assertEqual(wire.forget().say(f"AUTH PLAIN {plain()}").codes, [235])
        self.assertNotIn("PLAIN", offered(self.connected("--auth", MEMORY)))

    def test_several(self) -> None:
        """Several checkers are asked one after another."""
        wire = self.connected("--auth", "memory:jim:x", "--auth", MEMORY, "--allow-insecure-auth").greeted()
        self.assertEqual(wire.say(f"AUTH PLAIN {plain()}").codes, [235])

    def test_require(self) -> None:
        """--require-auth refuses mail from strangers, and needs --auth."""
        wire = self.connected("--auth", MEMORY, "--require-auth").greeted()
        self.assertEqual(wire.say("MAIL FROM:<a@x.example>").codes, [530])
        with self.assertRaisesRegex((UsageError, ValueError), "--require-auth needs --auth"):
            parsed("--require-auth", "--check")

    def test_asked_for(self) -> None:
        """``memory:`` and ``file:`` ask for CRAM-MD5, ``anonymous`` for ANONYMOUS; --disable has the last word."""
        self.assertNotIn("CRAM-MD5", offered(self.connected("--auth", MEMORY, "--disable", "cram-md5")))
        self.assertEqual(offered(self.connected("--auth", "anonymous")), ["ANONYMOUS"])
        self.assertEqual(offered(self.connected("--auth", "anonymous", "--disable", "ANONYMOUS")), [])
        self.assertIn("CRAM-MD5", offered(self.connected("--auth", MEMORY, "--enable", "CRAM-MD5")))

    def test_mistakes(self) -> None:
        """A mistake names the option."""
        for text in ("file:/nowhere", "memory:joe", "nonsense", "htpasswd:"):
            with self.subTest(text=text):
                self.assertRaisesRegex(UsageError, "^--auth: ", parsed, "--auth", text)

    def test_check(self) -> None:
        """--check shows what is offered and whose names are asked, and no password."""
        text = printed("--check", "--port", "tcp:0", "--auth", MEMORY, "--allow-insecure-auth")
        self.assertIn("auth = memory\n", text)
        self.assertIn("AUTH SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN", text)
        self.assertNotIn(PASSWORD, text)

    def test_help(self) -> None:
        """--help-auth lists the checkers, --help-auth-type describes one."""
        self.assertIn("htpasswd:", printed("--help-auth"))
        self.assertIn("python -m smtpsvc.checkers.htpasswd NAME", printed("--help-auth-type", "htpasswd"))
        self.assertRaisesRegex(UsageError, "did you mean htpasswd", parsed, "--help-auth-type", "htpassword")


class FactoryTests(SynchronousTestCase):
    def test_mechanism(self) -> None:
        """A mechanism that is installed as a plugin comes behind ours; one of the same name as ours does not."""
        mine = MechanismFactory("X-MINE", "tests.test_authoptions:make_mine")
        again = MechanismFactory("PLAIN", "nowhere:nothing")
        found = find_mechanisms([again, mine])
        self.assertEqual([mechanism.name for mechanism in found[-2:]], ["ANONYMOUS", "X-MINE"])

    def test_broken_mechanism(self) -> None:
        """One that cannot be had, or is none, is a line in the log; the others are offered."""

        class Nameless:
            @property
            def name(self) -> str:
                raise ZeroDivisionError

        mine = MechanismFactory("X-MINE", "tests.test_authoptions:make_mine")
        for broken, sentence in (
            (MechanismFactory("X", "nowhere_at_all:Nothing"), "X is not offered: ModuleNotFoundError"),
            (MechanismFactory("X", "builtins:dict"), "X is not offered: The object {} has failed to implement"),
            (Nameless(), "of a plugin is not offered: ValueError: a Nameless has no name"),
            (object(), "of a plugin is not offered: ValueError: a object has no name"),
        ):
            with self.subTest(sentence):
                events: list[Any] = []
                observe = events.append
                globalLogPublisher.addObserver(observe)
                found = find_mechanisms([broken, mine])
                globalLogPublisher.removeObserver(observe)
                self.assertEqual(found[-1].name, "X-MINE")
                (event,) = events
                self.assertIn(f"the SASL mechanism {sentence}", formatEvent(event))

    def test_lazy(self) -> None:
        """A checker's plugin loads nothing before it is used."""
        factory = CheckerFactory("x", "nowhere_at_all:make", "FILE", "nowhere_at_all:Interface")
        self.assertEqual((factory.authType, factory.argStringFormat), ("x", "FILE"))
        self.assertIn("nowhere_at_all", repr(factory))
        self.assertRaises(ImportError, factory.generateChecker, "x")


def make_mine() -> Any:
    """Make a mechanism of one's own."""
    from smtpsvc.sasl.plain import Plain

    class Mine(Plain):
        name = "X-MINE"

    return Mine()
