"""
Tests of smtpsvc.roles and smtpsvc.listenoptions: what listeners are for, and what they need.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.launch import Hangup, StartError
from smtpsvc.listeners import parse_listener
from smtpsvc.roles import check_role
from smtpsvc.service import MailService
from smtpsvc.settings import Role, Settings
from smtpsvc.tap import Options, makeService
from smtpsvc.testing import ScriptedBackend, Wire
from smtpsvc.tlstesting import TLSWire
from tests.certificates import TLSTestCase, connect, factory, pair, secured, store

AUTH = ("--auth", "memory:ann:secret")
NO_CERTIFICATE = "and there is no certificate; give --tls-certificate FILE"

NEEDS_TLS = "who logs in here needs TLS (unless --allow-insecure-auth is given)"
NOBODY = "its clients must log in, and nobody could; say who can, such as --auth htpasswd:FILE"


class RoleTests(SynchronousTestCase):
    """A listener that could serve nobody is refused, with what to give."""

    def problem(
        self, text: str, role: Role = Role.SMTP, *, certificates: bool = False, logins: bool = False, **settings: Any
    ) -> str:
        """Give the sentence that refuses a listener, or ""."""
        listener = parse_listener(text, reactor, option="--x", role=role)
        try:
            check_role(listener, Settings(**settings), certificates=certificates, logins=logins)
        except ValueError as error:
            return str(error)
        return ""

    def test_good(self) -> None:
        """These can do what they are for."""
        submission = Role.SUBMISSION
        cases: list[tuple[Any, ...]] = [
            ("25", Role.SMTP, {}),
            ("25", Role.LMTP, {}),
            ("unix:/run/x", Role.LMTP, {}),
            ("25", Role.SMTP, {"certificates": True, "require_tls": True}),
            ("implicit-tls:25", Role.SMTP, {"certificates": True}),
            ("25", submission, {"certificates": True, "logins": True}),
            ("25", submission, {"allow_insecure_auth": True, "logins": True}),
            ("haproxy:25", submission, {"trust_proxy_tls": True, "logins": True}),
            ("haproxy:25", Role.SMTP, {"trust_proxy_tls": True, "require_tls": True}),
        ]
        for text, role, how in cases:
            with self.subTest(text, role=role, **how):
                self.assertEqual(self.problem(text, role, **how), "")

    def test_certificate(self) -> None:
        """What needs TLS needs a certificate."""
        cases: list[tuple[str, Role, dict[str, Any], str]] = [
            ("implicit-tls:25", Role.SMTP, {}, "TLS comes first here"),
            ("haproxy:implicit-tls:25", Role.SMTP, {"trust_proxy_tls": True}, "TLS comes first here"),
            ("25", Role.SMTP, {"require_tls": True}, "--require-tls serves nobody without TLS"),
            ("haproxy:25", Role.SMTP, {"require_tls": True}, "--require-tls serves nobody without TLS"),
            (
                "25",
                Role.SUBMISSION,
                {"logins": True},
                NEEDS_TLS,
            ),
        ]
        for text, role, how, why in cases:
            with self.subTest(text, role=role, **how):
                self.assertEqual(self.problem(text, role, **how), f"--x {text}: {why}, {NO_CERTIFICATE}")

    def test_logins(self) -> None:
        """Submission needs somebody who can log in."""
        self.assertEqual(
            self.problem("25", Role.SUBMISSION, certificates=True),
            f"--x 25: {NOBODY}",
        )


class PrefixTests(SynchronousTestCase):
    """``implicit-tls:`` in front of a listener."""

    def test_prefix(self) -> None:
        """It makes TLS come first, on any endpoint and behind haproxy:."""
        for text in ("implicit-tls:0", "implicit-tls:tcp:0", "haproxy:implicit-tls:0", "IMPLICIT-TLS:unix:/run/x"):
            with self.subTest(text):
                listener = parse_listener(text, reactor)
                self.assertTrue(listener.implicit_tls)
                self.assertFalse(listener.plain)
                self.assertTrue(listener.places)

    def test_none(self) -> None:
        """Without it TLS does not."""
        self.assertFalse(parse_listener("0", reactor).implicit_tls)

    def test_option(self) -> None:
        """An option may ask for it in the prefix's place, or beside it."""
        for text in ("0", "implicit-tls:0", "haproxy:0"):
            with self.subTest(text):
                self.assertTrue(parse_listener(text, reactor, implicit_tls=True).implicit_tls)

    def test_mistakes(self) -> None:
        """Odd combinations are refused."""
        cases = [
            ("implicit-tls:ssl:0", "this endpoint has TLS of its own already; write tcp: for it"),
            ("implicit-tls:implicit-tls:0", "the prefix implicit-tls: is there twice"),
            ("implicit-tls:haproxy:0", "a proxy's header comes before all else; write haproxy: first"),
        ]
        for text, expected in cases:
            with self.subTest(text):
                # What ssl: says of its missing key is another matter.
                text = text.replace("ssl:0", f"ssl:0:privateKey={self.key()}")
                error = self.assertRaises(ValueError, parse_listener, text, reactor)
                self.assertEqual(str(error), f"--port {text}: {expected}")

    def key(self) -> str:
        """Write a key with its certificate once, and give its path."""
        path = Path("key.pem")
        if not path.exists():
            path.write_bytes(b"".join(pair()))
        return str(path)


class OptionTests(SynchronousTestCase):
    """The options that open listeners, on the command line."""

    def setUp(self) -> None:
        """Write a certificate, and catch what is printed."""
        self.out, self.err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)
        self.certificate = self.mktemp()
        Path(self.certificate).write_bytes(b"".join(pair()))

    def parse(self, *arguments: str) -> Options:
        """Read a command line, with a backend that keeps nothing."""
        options = Options()
        options.parseOptions(["--backend", "null:", "--hostname", "mx.example", *arguments])
        return options

    def refused(self, *arguments: str) -> str:
        """Give the sentence that refuses a command line."""
        return str(self.assertRaises(usage.UsageError, self.parse, *arguments))

    def test_roles(self) -> None:
        """Each option has its role, and --smtps TLS from the first byte."""
        cases = {
            "--port": (Role.SMTP, False),
            "--submission": (Role.SUBMISSION, False),
            "--smtps": (Role.SUBMISSION, True),
            "--lmtp": (Role.LMTP, False),
        }
        for option, expected in cases.items():
            with self.subTest(option):
                options = self.parse(option, "2526", *AUTH, "--tls-certificate", self.certificate)
                (listener,) = options.plan.listeners
                self.assertEqual((listener.role, listener.implicit_tls), expected)
                self.assertEqual(listener.name, f"{option} 2526")
                self.assertTrue(listener.loopback)

    def test_default_port(self) -> None:
        """Port 2525 is the default only if no listener at all is given."""
        self.assertEqual([each.name for each in self.parse().plan.listeners], ["--port 2525"])
        self.assertEqual([each.name for each in self.parse("--lmtp", "24").plan.listeners], ["--lmtp 24"])

    def test_several(self) -> None:
        """Each may be given several times."""
        given = ("--lmtp", "24", "--port", "25", "--port", "implicit-tls:tcp:26", "--tls-certificate", "none")
        options = self.parse(*given)
        names = ["--port 25", "--port implicit-tls:tcp:26", "--lmtp 24"]
        self.assertEqual([each.name for each in options.plan.listeners], names)

    def test_refused(self) -> None:
        """What cannot work is one sentence with the fix."""
        cases = [
            (("--smtps", "465", *AUTH), f"--smtps 465: TLS comes first here, {NO_CERTIFICATE}"),
            (
                ("--submission", "587", "--tls-certificate", "c"),
                f"--submission 587: {NOBODY}",
            ),
            (
                ("--submission", "587", *AUTH),
                f"--submission 587: {NEEDS_TLS}, {NO_CERTIFICATE}",
            ),
            (("--require-tls",), f"--port 2525: --require-tls serves nobody without TLS, {NO_CERTIFICATE}"),
            (("--tls-key", "k"), "--tls-key: there is no certificate; give --tls-certificate FILE"),
            (("--tls-client-ca", "a"), "--tls-client-ca: there is no certificate; give --tls-certificate FILE"),
        ]
        for arguments, expected in cases:
            with self.subTest(arguments):
                self.assertEqual(self.refused(*arguments), expected)

    def test_nothing_read(self) -> None:
        """The command line reads no certificate: that is for the start, or --check."""
        options = self.parse("--tls-certificate", "none")
        service: Any = makeService(options)
        self.assertEqual(options.plan.certificates and options.plan.certificates.names, [])
        self.assertIs(options.plan.certificates.parent, service)  # type: ignore[union-attr]

    def test_require_tls(self) -> None:
        """--require-tls is a setting."""
        plan = self.parse("--require-tls", "--tls-certificate", "c").plan
        self.assertTrue(plan.settings.require_tls)

    def test_start(self) -> None:
        """A certificate that is no good keeps the service from starting, in one sentence, and no port is open."""
        service: Any = makeService(self.parse("--port", "0", "--tls-certificate", "none"))
        self.patch(sys, "excepthook", sys.excepthook)
        error = self.assertRaises(StartError, service.privilegedStartService)
        self.assertEqual(str(error), "--tls-certificate none: it cannot be read: No such file or directory")
        self.assertEqual(service.ports, [])

    def check(self, *arguments: str) -> tuple[Any, str, str]:
        """Run --check, and give the exit code and what is printed."""
        code = self.assertRaises(SystemExit, self.parse, "--check", *arguments).code
        return code, self.out.getvalue(), self.err.getvalue()

    def test_check(self) -> None:
        """--check shows the reply to EHLO on each listener, before and after TLS and AUTH."""
        code, out, err = self.check(
            *("--port", "0", "--submission", "0", "--smtps", "0", *AUTH, "--tls-certificate", self.certificate)
        )
        self.assertEqual((code, err), (0, ""))
        shown = {part.partition("\n")[0]: part for part in out.split("\n\n")[1:]}
        self.assertEqual(
            list(shown),
            [
                "# EHLO on --port 0",
                "# EHLO on --port 0, after STARTTLS",
                "# EHLO on --port 0, after AUTH: the same",
                "# EHLO on --submission 0",
                "# EHLO on --submission 0, after STARTTLS",
                "# EHLO on --submission 0, after AUTH: the same",
                "# EHLO on --smtps 0",
                "# EHLO on --smtps 0, after AUTH: the same",
            ],
        )
        for title, starttls, auth in (
            ("# EHLO on --submission 0", True, False),
            ("# EHLO on --submission 0, after STARTTLS", False, True),
            ("# EHLO on --smtps 0", False, True),
        ):
            with self.subTest(title):
                self.assertEqual(("-STARTTLS\n" in shown[title], "AUTH SCRAM" in shown[title]), (starttls, auth))

    def test_check_certificate(self) -> None:
        """--check reads the certificates; a bad one is one line and exit code 1."""
        code, _, err = self.check("--port", "0", "--tls-certificate", "none")
        self.assertEqual(
            (code, err), (1, "smtpsvc: --tls-certificate none: it cannot be read: No such file or directory\n")
        )

    def test_check_settings(self) -> None:
        """--check names the files."""
        files = ("--tls-certificate", self.certificate, "--tls-client-ca", self.certificate)
        _, out, _ = self.check("--port", "0", *files)
        self.assertIn(f"tls-certificate = {self.certificate}\n", out)
        self.assertIn(f"tls-client-ca = {self.certificate}\n", out)


class SubmissionTests(TLSTestCase):
    """TLS comes before AUTH on submission listeners."""

    def portal(self) -> Any:
        """Make a portal that knows ann."""
        from smtpsvc.checkers import make_checker, make_portal

        return make_portal([make_checker("memory:ann:secret")])

    def connect(self, **settings: Any) -> TLSWire:
        """Connect to a submission listener."""
        return connect(role=Role.SUBMISSION, portal=self.portal(), **settings)

    def test_before_tls(self) -> None:
        """Before TLS AUTH is not shown, and 530 5.7.0."""
        wire = self.connect()
        self.assertNotIn(b"AUTH", wire.say("EHLO b.example").output)
        for line in ("AUTH PLAIN AGFubgBzZWNyZXQ=", "AUTH SCRAM-SHA-256", "AUTH"):
            with self.subTest(line):
                wire.forget().say(line)
                self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (530, "5.7.0"))

    def test_under_tls(self) -> None:
        """Under TLS it logs in, and then mail is taken: ESMTPSA."""
        backend = ScriptedBackend()
        wire = secured(backend, role=Role.SUBMISSION, portal=self.portal())
        wire.say("EHLO b.example", "MAIL FROM:<a@x.example>", "AUTH PLAIN AGFubgBzZWNyZXQ=", "MAIL FROM:<a@x.example>")
        self.assertEqual(wire.codes, [250, 530, 235, 250])
        wire.say("RCPT TO:<b@y.example>", "DATA", "x", ".")
        self.assertIn(b" with ESMTPSA id ", b" ".join(backend.messages[0].content.split()))

    def test_allowed(self) -> None:
        """With allow_insecure_auth it does so without."""
        self.assertEqual(self.connect(allow_insecure_auth=True).say("AUTH PLAIN AGFubgBzZWNyZXQ=").codes, [235])

    def test_port(self) -> None:
        """On other listeners mechanisms that hide the password are offered before TLS."""
        wire = connect(portal=self.portal())
        self.assertIn(b"AUTH SCRAM-", wire.say("EHLO b.example").output)

    def test_login_forgotten(self) -> None:
        """A login before STARTTLS does not count after it."""
        wire = connect(role=Role.SUBMISSION, portal=self.portal(), allow_insecure_auth=True)
        wire.say("AUTH PLAIN AGFubgBzZWNyZXQ=", "STARTTLS")
        wire.secure().forget().say("EHLO b.example", "MAIL FROM:<a@x.example>")
        self.assertEqual(wire.codes, [250, 530])


class ServiceTests(SynchronousTestCase):
    """MailService(tls=…)."""

    def test_factories(self) -> None:
        """There is a factory for each role, with and without TLS first."""
        service = MailService(ScriptedBackend(), tls=store())
        self.addCleanup(lambda: store().disownServiceParent())
        plain, implicit = service.factory(), service.factory(implicit_tls=True)
        self.assertEqual((plain.implicit_tls, implicit.implicit_tls), (False, True))
        self.assertIs(service.factory(), plain)

    def test_no_tls(self) -> None:
        """Implicit TLS without anything to begin with is an error when it is asked for."""
        service = MailService(ScriptedBackend())
        self.assertRaises(ValueError, service.listen, object(), implicit_tls=True)
        self.assertEqual(service.bindings, [])

    def test_plain(self) -> None:
        """A service without TLS shows none."""
        wire = Wire(MailService(ScriptedBackend(), clock=Clock()).factory()).say("EHLO a.example")
        self.assertNotIn(b"STARTTLS", wire.output)

    def test_preview(self) -> None:
        """preview() shows EHLO as it is under TLS too."""
        from smtpsvc.values import TLSInfo

        server = factory()[0]
        self.assertIn("250-STARTTLS", server.preview())
        self.assertNotIn("250-STARTTLS", server.preview(tls=TLSInfo("TLSv1.3", "")))


class HangupTests(SynchronousTestCase):
    """SIGHUP is heeded where there is something to read anew."""

    def test_acts(self) -> None:
        """It acts by way of the reactor, until it is stopped."""
        done: list[str] = []

        class FakeReactor:
            def callWhenRunning(self, function: Any) -> None:
                function()

            def callFromThread(self, function: Any) -> None:
                done.append("called")
                function()

        before = signal.getsignal(signal.SIGHUP)
        hangup = Hangup(FakeReactor(), lambda: done.append("acted"))
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(done, ["called", "acted"])
        hangup.stop()
        hangup.stop()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)

    def test_stopped_before(self) -> None:
        """One that is stopped before the reactor runs acts never."""

        class FakeReactor:
            callWhenRunning = staticmethod(lambda function: None)

        before = signal.getsignal(signal.SIGHUP)
        Hangup(FakeReactor(), lambda: None).stop()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)
