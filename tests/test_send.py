"""Tests of ``python -m smtpsvc.send``: its command line, what it says, and how it ends."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.send.__main__ import make_options, parse_where, send
from smtpsvc.send.options import parser, read
from smtpsvc.send.transcript import Transcript
from smtpsvc.values import TLSInfo
from tests.certificates import AUTHORITY
from tests.live import ROOT, Server, run
from tests.mailnet import LOST, Net, Site
from tests.pages import PAGES, blocks

MAIL = b"From: a@x.example\nTo: joe@y.example\nBcc: ann@y.example\nSubject: hi\n\ntext\n.\n"


class SendTestCase(SynchronousTestCase):
    def send(self, *words: str, site: Site | None = None, input: bytes = MAIL) -> int:
        """Run it against a site in memory; keep what it tells."""
        self.site = site or Site()
        self.net = Net({"/s": self.site})
        self.told: list[str] = []
        self.complained: list[str] = []
        server = [] if "--mx" in words else ["--server", "unix:/s"]
        options = read([*server, "--ehlo", "client.example", *words])
        running = send(options, self.net, io.BytesIO(input), self.told.append, self.complained.append)
        status: int = self.net.result(Deferred.fromCoroutine(running))
        return status

    def mistake(self, *words: str) -> str:
        """Give what is said of a command line that is wrong."""
        error = io.StringIO()
        self.patch(sys, "stderr", error)
        with self.assertRaises(SystemExit) as caught:
            read(list(words))
        self.assertEqual((caught.exception.code, error.getvalue().count("\n")), (2, 1))
        return error.getvalue()


class MessageTests(SendTestCase):
    """What is sent."""

    def test_standard_input(self) -> None:
        """The message is read from standard input, its header names everybody, and Bcc does not go out."""
        self.assertEqual(self.send(), 0)
        [(recipients, content)] = self.site.messages
        self.assertEqual(recipients, ["joe@y.example", "ann@y.example"])
        self.assertEqual(content, b"From: a@x.example\r\nTo: joe@y.example\r\nSubject: hi\r\n\r\ntext\r\n..\r\n")

    def test_file(self) -> None:
        """Or from a file, with fields added to it, and another subject."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(MAIL)
            file.flush()
            self.send("--file", file.name, "--header", "X-Test: yes", "--subject", "other", "--to", "bob@y.example")
        [(recipients, content)] = self.site.messages
        self.assertEqual(recipients, ["bob@y.example"])
        self.assertIn(b"\r\nSubject: other\r\nX-Test: yes\r\n\r\n", content)

    def test_made(self) -> None:
        """Or made of a subject and a text."""
        self.send("--from", "a@x.example", "--to", "b@y.example,c@y.example", "--to", "d@y.example",
                  "--subject", "Grüße", "--body", "hello")  # fmt: skip
        [(recipients, content)] = self.site.messages
        self.assertEqual(recipients, ["b@y.example", "c@y.example", "d@y.example"])
        for words in (b"\r\nFrom: a@x.example\r\n", b"\r\nSubject: =?utf-8?", b"\r\n\r\nhello\r\n", b"Message-ID: <"):
            self.assertIn(words, b"\r\n" + content)

    def test_raw(self) -> None:
        """With --raw line ends stay as they are, and are refused if they are bare."""
        self.assertEqual(self.send("--raw"), 1)
        self.assertIn("bare LF", self.told[0])

    def test_parameters(self) -> None:
        """Parameters of all extensions are said."""
        offers = "DSN|DELIVERBY|MT-PRIORITY|FUTURERELEASE 1000 2039-01-01T00:00:00Z|AUTH PLAIN|XOORG|NO-SOLICITING"
        lines = ["mx.example", *offers.split("|"), "PRDR", "SMTPUTF8", "RRVS", "8BITMIME"]
        ehlo = "".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode()
        status = self.send(
            "--ret", "hdrs", "--envid", "a b", "--by", "120;R", "--mt-priority=-3", "--hold-for", "60", "--submitter",
            "", "--xoorg", "y.example", "--solicit", "a.b:c", "--prdr", "--smtputf8", "--notify", "success,delay",
            "--orcpt", "rfc822;z@y.example", "--rrvs", "2020-01-01T00:00:00Z", "--mail-param", "X=1", "--rcpt-param",
            "Y", "--to", "b@y.example", site=Site({"EHLO": ehlo}),
        )  # fmt: skip
        self.assertEqual((status, self.told), (0, ["delivered b@y.example: 250 2.0.0 OK"]))
        mail, rcpt = self.site.said[1:3]
        self.assertEqual(mail.split(" ")[1:], [
            "FROM:<a@x.example>", "BODY=8BITMIME", "SMTPUTF8", "RET=HDRS", "ENVID=a+20b", "BY=120;R", "MT-PRIORITY=-3",
            "HOLDFOR=60", "AUTH=<>", "XOORG=y.example", "SOLICIT=a.b:c", "PRDR", "X=1",
        ])  # fmt: skip
        words = ["TO:<b@y.example>", "NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;z@y.example", "RRVS=2020-01-01T00:00:00Z"]
        self.assertEqual(rcpt.split(" ")[1:], [*words, "Y"])

    def test_no_colon(self) -> None:
        """A field without a colon, or with control characters, is a mistake."""
        for wrong in ("X-Test", "X: a\nb", "a b: c"):
            with self.subTest(wrong=wrong):
                self.assertEqual(self.send("--header", wrong), 2)
                self.assertEqual(self.site.tried, 0)


class EndTests(SendTestCase):
    """How it ends."""

    def test_status(self) -> None:
        """The exit status says what became of it, and a line for each recipient how."""
        never, later = b"550 5.1.1 No\r\n", b"450 4.2.1 Later\r\n"
        cases: list[tuple[dict[str, Any], int, str]] = [
            ({}, 0, "delivered joe@y.example: 250 2.0.0 OK"),
            ({"RCPT": never}, 1, "refused joe@y.example: 550 5.1.1 No"),
            ({"RCPT": later}, 75, "deferred joe@y.example: 450 4.2.1 Later"),
            ({".": LOST}, 3, "unknown joe@y.example: the server closed the connection"),
            ({"": LOST}, 75, "deferred joe@y.example: the server closed the connection"),
            ({"RCPT": lambda line: never if "ann" in line else later}, 1, "deferred joe@y.example: 450 4.2.1 Later"),
        ]
        for replies, status, line in cases:
            with self.subTest(line=line):
                self.assertEqual(self.send(site=Site(replies)), status)
                self.assertTrue(self.told[0].startswith(line), self.told)
        self.assertEqual((self.send("-q"), self.told), (0, []))

    def test_nobody(self) -> None:
        """A message that is for nobody is a mistake, in one line."""
        self.assertEqual(self.send(input=b"Subject: x\n\n"), 2)
        self.assertEqual(self.complained, ["smtpsvc.send: the message has no field From, and no sender was given"])

    def test_hostile(self) -> None:
        """What a server says reaches the terminal escaped."""
        self.send("-v", site=Site({"RCPT": b"550 5.1.1 \x1b[2J\xff\r\n"}))
        for line in self.told + self.complained:
            self.assertTrue(line.isprintable(), line)


class CommandLineTests(SendTestCase):
    """Mistakes are told in one line."""

    def test_mistakes(self) -> None:
        """Each says what is wrong."""
        cases = {
            "": "--server or --mx",
            "--server h --mx": "--server or --mx",
            "--server h --notify NEVER,SUCCESS": "NOTIFY: the value has NEVER beside other words",
            "--server h --password-file f": "--password-file needs --auth",
            "--server h --certificate f": "go together",
            "--server h --raw --subject x": "--raw",
            "--server h --file f --body x": "both the message",
            "--server h --tls --no-tls": "not allowed",
            "--mx --dns-server x": "is no address",
            "--server h --pass x": "unrecognized",
        }
        for words, text in cases.items():
            with self.subTest(words=words):
                self.assertIn(text, self.mistake(*words.split()))

    def test_servers(self) -> None:
        """All forms of a server are understood; others are refused."""
        cases = {
            "mx.example": ("mx.example", 25, "opportunistic", False),
            "mx.example:2525": ("mx.example", 2525, "opportunistic", False),
            "[2001:db8::1]:26": ("2001:db8::1", 26, "opportunistic", False),
            "2001:db8::1": ("2001:db8::1", 25, "opportunistic", False),
            "smtps:mx.example": ("mx.example", 465, "implicit", False),
            "smtp:25": ("smtp", 25, "opportunistic", False),
            "lmtp:mx.example:24": ("mx.example", 24, "opportunistic", True),
        }
        how = make_options(read(["--server", "h"]), self.fail)
        for text, (host, port, tls, lmtp) in cases.items():
            with self.subTest(text=text):
                where, found = parse_where(text, how, None)
                self.assertEqual((where, found.tls.value, found.lmtp), ((host, port), tls, lmtp))
        self.assertTrue(parse_where("lmtp:unix:/s", how, None)[1].lmtp)
        for text in ("h:", "h:x", "h:70000", "[::1]x", "unix:", ""):
            with self.subTest(text=text), self.assertRaisesRegex(ValueError, "--server"):
                parse_where(text, how, None)

    def test_password(self) -> None:
        """The password is read from a file or the environment, and its login wants TLS."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"secret word\nmore\n")
            file.flush()
            made = make_options(read(["--server", "h", "--auth", "u", "--password-file", file.name]), self.fail)
        assert made.login is not None
        self.assertEqual((made.login.password, getattr(made.tls, "value", "")), ("secret word", "required"))
        self.patch(os, "environ", {"SMTPSVC_PASSWORD": "other"})
        made = make_options(read(["--server", "h", "--auth", "u", "--token", "--mechanism", "XOAUTH2"]), self.fail)
        assert made.login is not None
        self.assertEqual((made.login.token, made.login.mechanisms), ("other", ["XOAUTH2"]))

    def test_authorities(self) -> None:
        """Trusted certificates are read from a file, of which at least one must be there."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "ca.pem"
            path.write_bytes(AUTHORITY.pem)
            made = make_options(read(["--server", "h", "--ca", str(path)]), self.fail)
            self.assertIsNotNone(made.trust)
            path.write_bytes(b"nothing")
            with self.assertRaisesRegex(ValueError, "no certificate"):
                make_options(read(["--server", "h", "--ca", str(path)]), self.fail)

    def test_timeout(self) -> None:
        """--timeout is that of each step."""
        made = make_options(read(["--server", "h", "--timeout", "7"]), self.fail)
        self.assertEqual((made.timeouts.end, made.timeouts.connect), (7, 7))


class TranscriptTests(SynchronousTestCase):
    """What is said, in lines."""

    def transcript(self, *said: tuple[str, bytes], content: bool = False) -> list[str]:
        """Write down what is said, cut at every place."""
        found: list[list[str]] = []
        for step in (1, 2, 3, 7, 1000):
            lines: list[str] = []
            made = Transcript(lines.append, "mx", content=content)
            for who, octets in said:
                for start in range(0, len(octets), step):
                    (made.sent if who == "C" else made.received)(octets[start : start + step])
            found.append(lines[1:])
        self.assertEqual(found, [found[0]] * len(found))
        return found[0]

    def test_secrets(self) -> None:
        """Nothing of a login is shown but its mechanism, and all is shown again after it."""
        lines = self.transcript(
            ("C", b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n"), ("S", b"334 c2VjcmV0\r\n"), ("C", b"c2VjcmV0\r\n"),
            ("S", b"535 5.7.8 No\r\n"), ("C", b"AUTH LOGIN\r\n"), ("S", b"334 VXNlcg==\r\n"), ("C", b"YW5u\r\n"),
            ("S", b"235-2.7.0 Good\r\n235 2.7.0 day\r\n"), ("C", b"NOOP\r\n"),
        )  # fmt: skip
        self.assertEqual(lines, [
            "C: AUTH PLAIN ***", "S: 334 ***", "C: ***", "S: 535 5.7.8 No", "C: AUTH LOGIN", "S: 334 ***", "C: ***",
            "S: 235-2.7.0 Good", "S: 235 2.7.0 day", "C: NOOP",
        ])  # fmt: skip

    def test_content(self) -> None:
        """Of a message its size is told; with the content, its lines. What follows it is shown again."""
        said = (
            ("C", b"DATA\r\n"), ("S", b"354 Go\r\n"), ("C", b"a\r\n..b\r\n.\r\nMAIL FROM:<>\r\n"), ("S", b"250 OK\r\n"),
            ("C", b"BDAT 3\r\na\r\nBDAT 4 LAST\r\nbcd\nBDAT 0 LAST\r\nQUIT\r\n"),
        )  # fmt: skip
        self.assertEqual(self.transcript(*said), [
            "C: DATA", "S: 354 Go", "C: (the message: 8 octets)", "C: .", "C: MAIL FROM:<>", "S: 250 OK", "C: BDAT 3",
            "C: (the message: 3 octets)", "C: BDAT 4 LAST", "C: (the message: 4 octets)", "C: BDAT 0 LAST", "C: QUIT",
        ])  # fmt: skip
        self.assertEqual(self.transcript(*said, content=True)[2:6], ["C: a", "C: ..b", "C: .", "C: MAIL FROM:<>"])

    def test_empty(self) -> None:
        """A message of nothing ends too."""
        lines = self.transcript(("S", b"354 Go\r\n"), ("C", b".\r\nQUIT\r\n"))
        self.assertEqual(lines, ["S: 354 Go", "C: (the message: 0 octets)", "C: .", "C: QUIT"])

    def test_events(self) -> None:
        """TLS and the end are told, and a reply that was cut short."""
        lines: list[str] = []
        made = Transcript(lines.append)
        made.received(b"220 hal")
        made.secured(TLSInfo("TLSv1.3", "X"))
        made.closed()
        self.assertEqual(lines, ["* connected to the server", "* TLSv1.3 with cipher X", "S: 220 hal", "* closed"])

    def test_bounded(self) -> None:
        """A line without an end does not fill the memory."""
        made = Transcript(len)
        for _ in range(100):
            made.received(b"x" * 10_000)
        self.assertLessEqual(len(made._heard), 8192)


class PageTests(SendTestCase):
    """The page of the documentation."""

    def test_commands(self) -> None:
        """Its command lines are understood."""
        [block] = blocks("send.rst", "shell")
        for line in block.splitlines():
            with self.subTest(line=line):
                words = shlex.split(line.partition(" <")[0])
                self.assertEqual(words[:3], ["python", "-m", "smtpsvc.send"])
                read(words[3:])

    def test_transcript(self) -> None:
        """A transcript is as it is shown."""
        [shown] = blocks("send.rst", "text")
        ehlo = b"250-mx.example.org\r\n250-PIPELINING\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n"
        site = Site({"": b"220 mx.example.org ESMTP\r\n", "EHLO": ehlo, "AUTH": b"235 2.7.0 Welcome\r\n"})
        self.patch(os, "environ", {"SMTPSVC_PASSWORD": "secret"})
        who = ["--from", "anna@example.com", "--to", "bert@example.org", "--ehlo", "client.example.com"]
        login = ["--auth", "anna", "--auth-in-clear", "--no-tls"]
        self.send(*who, *login, "-v", site=site, input=b"Subject: hello\n\nA message.\n")
        self.assertEqual(self.complained[0], "* connected to the server")
        self.assertEqual(self.complained[1:], shown.splitlines()[1:])

    def test_options(self) -> None:
        """It names every option, and no other."""
        page = set(re.findall(r"``(--?[a-z0-9-]+)``", PAGES["send.rst"]))
        there = {word for action in parser()._actions for word in action.option_strings}
        self.assertEqual(page - there, {"-vv"})
        self.assertEqual(there - page, {"-h", "--help", "--verbose", "--quiet"})


class ProgramTests(SynchronousTestCase):
    """The program itself."""

    def test_run(self) -> None:
        """It sends to a service, tells its recipients, shows what was said, and ends with 0."""
        server = Server("--backend", "maildir:Maildir")
        self.addCleanup(server.close)
        words = ["--server", f"127.0.0.1:{server.port}", "--from", "a@x.example", "--to", "joe@y.example", "-v"]
        done = run(sys.executable, "-m", "smtpsvc.send", *words, input=b"Subject: x\n\nhello\n", cwd=ROOT)
        self.assertRegex(done.stdout, rb"^delivered joe@y\.example by 127\.0\.0\.1: 250 ")
        for line in (b"C: MAIL FROM:<a@x.example>", b"S: 250", b"C: QUIT", b"* closed"):
            self.assertIn(line, done.stderr)
        self.assertIn(b"hello", server.mails()[0])

    def test_refused(self) -> None:
        """Its status is that of the report, and nothing of a traceback is printed."""
        words = ["--server", "127.0.0.1:1", "--body", "x", "--from", "a@x.example", "--to", "b@y.example"]
        done = run(sys.executable, "-m", "smtpsvc.send", *words, status=75, cwd=ROOT)
        self.assertEqual((done.stdout.count(b"\n"), done.stderr), (1, b""))
        self.assertIn(b"cannot connect to 127.0.0.1", done.stdout)


