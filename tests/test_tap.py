"""
Tests of smtpsvc.tap: the command line.
"""

from __future__ import annotations

import io
import os
import socket
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc import __version__
from smtpsvc.backends.maildir import MaildirBackend
from smtpsvc.backends.null import NullBackend
from smtpsvc.grammar import replies
from smtpsvc.settings import BareNewline, Limits, Settings
from smtpsvc.tap import Options, makeService
from smtpsvc.testing import Wire


def parse(*arguments: str) -> Options:
    """Read a command line, with a backend that keeps nothing if it names none."""
    options = Options()
    options.parseOptions(["--backend", "null:", *arguments])
    return options


class Parent(usage.Options):
    """Stands for twistd: a command with options of its own."""

    optFlags = [["nodaemon", "n", "Stay."]]
    optParameters = [["rundir", "d", ".", "Go there."], ["logfile", "l", None, "Log there."]]
    subCommands = [["smtpsvc", None, Options, "Take mail."]]


class TapTestCase(SynchronousTestCase):
    """Catches what is printed."""

    def setUp(self) -> None:
        """Redirect the streams."""
        self.out, self.err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def refused(self, *arguments: str) -> str:
        """Give the sentence that refuses a command line."""
        error = self.assertRaises(usage.UsageError, parse, *arguments)
        self.assertEqual(len(str(error).splitlines()), 1, str(error))
        return str(error)

    def exits(self, *arguments: str) -> Any:
        """Give the exit code of a command line that ends at once."""
        return self.assertRaises(SystemExit, parse, *arguments).code


class DefaultTests(TapTestCase):
    """What holds without options."""

    def test_settings(self) -> None:
        """The settings are those of Settings."""
        self.assertEqual(parse().plan.settings, Settings())

    def test_listener(self) -> None:
        """It listens on port 2525 of this machine, unless another listener is asked for."""
        cases: dict[tuple[str, ...], list[str]] = {
            (): ["--port 2525"],
            ("--port", "25"): ["--port 25"],
            ("--port", "25", "--port", "tcp:26"): ["--port 25", "--port tcp:26"],
        }
        for arguments, names in cases.items():
            with self.subTest(arguments):
                self.assertEqual([listener.name for listener in parse(*arguments).plan.listeners], names)

    def test_backend(self) -> None:
        """Mail goes to ./Maildir, which is neither made nor sought yet."""
        options = Options()
        options.parseOptions([])
        self.assertIsInstance(options.plan.backend, MaildirBackend)
        self.assertEqual(options.plan.backend.directory, "./Maildir")

    def test_domains(self) -> None:
        """Mail is taken for all domains: no policy stands in front of the backend."""
        self.assertIsInstance(parse().plan.backend, NullBackend)


class OptionTests(TapTestCase):
    """What each option sets."""

    def test_settings(self) -> None:
        """Options fill the settings."""
        cases: list[tuple[str, str, Settings]] = [
            ("--hostname", "mx.example.org", Settings(hostname="mx.example.org")),
            ("--banner", "hello", Settings(banner="hello")),
            ("--banner", "", Settings(banner="")),
            ("--max-message-size", "1G", Settings(limits=Limits(message_size=1 << 30))),
            ("--max-message-size", "0", Settings(limits=Limits(message_size=0))),
            ("--max-recipients", "7", Settings(limits=Limits(recipients=7))),
            ("--max-line-length", "512", Settings(limits=Limits(line_length=512))),
            ("--min-free-space", "1G", Settings(limits=Limits(min_free_space=1 << 30))),
            ("--min-free-space", "0", Settings(limits=Limits(min_free_space=0))),
            ("--max-connections", "0", Settings(limits=Limits(connections=0))),
            ("--max-connections-per-client", "50", Settings(limits=Limits(connections_per_client=50))),
            ("--max-connections-per-client", "Auto", Settings()),
            ("--max-errors", "5", Settings(limits=Limits(errors=5))),
            ("--max-refused-recipients", "5", Settings(limits=Limits(refused_recipients=5))),
            ("--max-junk", "5", Settings(limits=Limits(junk=5))),
            ("--max-auth-failures", "5", Settings(limits=Limits(auth_failures=5))),
            ("--max-received", "100", Settings(limits=Limits(received=100))),
            ("--max-header-size", "64K", Settings(limits=Limits(header_size=65536))),
            ("--max-text-line", "998", Settings(limits=Limits(text_line=998))),
            ("--max-buffered", "1G", Settings(limits=Limits(buffered=1 << 30))),
            ("--greet-delay", "0.5", Settings(limits=Limits(greet_delay=0.5))),
            ("--min-data-rate", "100", Settings(limits=Limits(data_rate=100))),
            ("--stress", "0", Settings(limits=Limits(stress_timeout=0))),
            ("--hook-timeout", "60", Settings(limits=Limits(hook_timeout=60))),
            ("--handshake-timeout", "10", Settings(limits=Limits(handshake_timeout=10))),
            ("--proxy-timeout", "10", Settings(limits=Limits(proxy_timeout=10))),
            ("--timeout", "1.5", Settings(limits=Limits(command_timeout=1.5))),
            ("--data-timeout", "60", Settings(limits=Limits(data_timeout=60))),
            ("--bare-newline", "Normalize", Settings(bare_newline=BareNewline.NORMALIZE)),
        ]
        for option, text, settings in cases:
            with self.subTest(option):
                self.assertEqual(parse(option, text).plan.settings, settings)

    def test_lenient_paths(self) -> None:
        """A flag makes paths lenient."""
        self.assertTrue(parse("--lenient-paths").plan.settings.lenient_paths)

    def test_domain(self) -> None:
        """Recipients in the given domains are taken, others are refused."""
        service: Any = makeService(parse("--domain", "a.example", "--domain", "b.example"))
        wire = Wire(service.factory()).greeted()
        wire.say("MAIL FROM:<>", "RCPT TO:<x@a.example>", "RCPT TO:<x@B.example>", "RCPT TO:<x@c.example>")
        self.assertEqual(wire.codes, [250, 250, 250, 550])
        self.assertEqual(wire.last_reply.enhanced, replies.RELAYING_DENIED.enhanced)
        wire.hang_up()

    def test_dedupe(self) -> None:
        """With ``--dedupe`` a message that comes again is answered 250 and kept once; without, each is kept."""
        cases = (((), "taken as"), (("--dedupe", "0"), "taken as"), (("--dedupe", "60"), "kept before as"))
        for options, words in cases:
            with self.subTest(options):
                service: Any = makeService(parse("--backend", "null:", *options))
                for _ in range(2):
                    wire = Wire(service.factory()).greeted()
                    wire.say("MAIL FROM:<>", "RCPT TO:<x@a.example>", "DATA", "text", ".").hang_up()
                self.assertIn(words, wire.last_reply.text)

    def test_version(self) -> None:
        """``--version`` prints that of smtpsvc."""
        self.assertEqual(self.exits("--version"), 0)
        self.assertEqual(self.out.getvalue(), f"smtpsvc {__version__}\n")

    def test_help_backends(self) -> None:
        """``--help-backends`` lists the backends."""
        self.assertEqual(self.exits("--help-backends"), 0)
        self.assertRegex(self.out.getvalue(), r"(?m)^maildir:DIR +Keep each message")

    def test_help_backend(self) -> None:
        """``--help-backend`` describes one, also when its argument is given."""
        for name in ("maildir", "maildir:/var/mail"):
            with self.subTest(name):
                self.assertEqual(self.exits("--help-backend", name), 0)
                self.assertIn("Delivered-To", self.out.getvalue())

    def test_help(self) -> None:
        """``--help`` shows each option with its default, within 80 columns."""
        self.assertEqual(self.exits("--help"), 0)
        printed = self.out.getvalue()
        text = " ".join(printed.split())
        for word in ("Usage: ", "[default: 2525]", "[default: 32M]", "[default: maildir:./Maildir]", "[default: 300]"):
            with self.subTest(word):
                self.assertIn(word, text)
        self.assertLessEqual(max(map(len, printed.splitlines())), 80)
        self.assertNotIn("Twisted version", text)


class MistakeTests(TapTestCase):
    """Each mistake is one line that names the option, what is wrong and what to do."""

    def test_values(self) -> None:
        """A value that cannot be is refused."""
        cases = {
            "--port=99999": "--port 99999: 99999 is no port; ports go from 1 to 65535, and 0 takes a free one",
            "--port=tcp:99999": "--port tcp:99999: 99999 is no port; ports go from 1 to 65535, and 0 takes a free one",
            "--hostname=a b": "--hostname: 'a b' is neither a domain nor an address literal such as [192.0.2.1]",
            "--banner=a\tb": "--banner: only printable ASCII can be sent in a greeting",
            "--max-message-size=3Q": "--max-message-size: '3Q' is no size; write bytes, or a number with K, M or G "
            "such as 32M",
            "--max-recipients=0": "--max-recipients: 0 recipients would accept no mail",
            "--max-recipients=1O": "--max-recipients: '1O' is no whole number; write digits only",
            "--max-recipients=-5": "--max-recipients: '-5' is no whole number; write digits only",
            "--max-line-length=80": "--max-line-length: 80 is below the 512 octets that RFC 5321 promises to clients",
            "--max-connections-per-client=many": "--max-connections-per-client: 'many' is no whole number",
            "--greet-delay=61": "--greet-delay: 61 s would drive honest clients away; 60 at most",
            "--max-buffered=1K": "--max-buffered: at least 1M is needed",
            "--stress=-1": "--stress: '-1' is no number of seconds; write digits, such as 300",
            "--timeout=0": "--timeout: a wait must be longer than 0 seconds",
            "--timeout=nan": "--timeout: 'nan' is no number of seconds; write digits, such as 300",
            "--data-timeout=5m": "--data-timeout: '5m' is no number of seconds; write digits, such as 300",
            "--min-free-space=1T": "--min-free-space: '1T' is no size; write bytes, or a number with K, M or G ",
            "--dedupe=1h": "--dedupe: '1h' is no number of seconds; write digits, such as 300",
            "--bare-newline=keep": "--bare-newline: 'keep' is neither reject nor normalize",
            "--backend=null:x": "--backend: null: takes no argument, so 'x' has no meaning; write null:",
            "--help-backend=nul": "--help-backend: there is no backend 'nul' (did you mean null?); there are ",
            "--backend=maildr:x": "--backend: there is no backend 'maildr' (did you mean maildir?); there are ",
            "--backend=python:no.where": "--backend: python:no.where cannot be imported: ModuleNotFoundError: ",
            "--domain=a..b": "--domain: 'a..b' is no domain",
        }
        for argument, sentence in cases.items():
            with self.subTest(argument):
                self.assertEqual(self.refused(argument)[: len(sentence)], sentence)

    def test_twice(self) -> None:
        """A place that is given twice is refused; a port that may be any is another each time."""
        for arguments, sentence in (
            (("--port=26", "--port=26"), "--port 26: it is given twice; leave one away, or give another place"),
            (("--lmtp=26", "--port=26"), "--lmtp 26: --port 26 listens there already; leave one away, or "),
        ):
            with self.subTest(sentence):
                self.assertEqual(self.refused(*arguments)[: len(sentence)], sentence)
        for place in ("0", "tcp:0", "tcp:0:interface=127.0.0.1"):
            with self.subTest(place):
                options = Options()
                options.parseOptions([f"--port={place}", f"--port={place}", "--backend=null:"])
                self.assertEqual(len(options.plan.listeners), 2)

    def test_options(self) -> None:
        """An option that is none, or is written wrongly, is refused with what may be meant."""
        self.patch(sys, "argv", ["/usr/bin/twistd"])
        cases = {
            "--prot=25": "--prot is no option; did you mean --port?",
            "--domains=x": "--domains is no option; did you mean --domain?",
            "--zzz": "--zzz is no option; see twistd smtpsvc --help",
            "-z": "-z is no option; see twistd smtpsvc --help",
            "--port": "--port needs a value; see twistd smtpsvc --help",
            "--check=yes": "--check takes no value",
            "--help-b=1": "--help-b can mean --help-backends or --help-backend",
            "2525": "'2525' is no option; for a port write --port 2525",
            "mail": "'mail' is no option; see twistd smtpsvc --help",
        }
        for argument, sentence in cases.items():
            with self.subTest(argument):
                self.assertEqual(self.refused(argument), sentence)

    def test_abbreviation(self) -> None:
        """As much of an option as no other has is enough."""
        self.assertEqual(parse("--max-li=600").plan.settings.limits.line_length, 600)

    def test_program(self) -> None:
        """What to type for help is the command that was typed."""
        self.patch(sys, "argv", ["/x/smtpsvc/__main__.py"])
        self.assertEqual(self.refused("--zzz"), "--zzz is no option; see python -m smtpsvc --help")

    def test_below_twistd(self) -> None:
        """Below twistd, which would print all of its help, a mistake ends the process: one line, exit code 1."""
        cases = {
            ("--zzz",): "smtpsvc: --zzz is no option; see ",
            ("-n",): "smtpsvc: -n is an option of the command itself: it stands before the word smtpsvc",
            ("--logfile", "x"): "smtpsvc: --logfile is an option of the command itself: it stands before the word",
            ("--timeout", "0"): "smtpsvc: --timeout: a wait must be longer than 0 seconds",
        }
        for arguments, sentence in cases.items():
            with self.subTest(arguments):
                error = self.assertRaises(SystemExit, Parent().parseOptions, ["smtpsvc", *arguments])
                # A str as the code is printed on stderr, and the code is 1.
                self.assertEqual(str(error.code)[: len(sentence)], sentence)


class MakeServiceTests(TapTestCase):
    """The service that the options ask for."""

    def test_nothing_opened(self) -> None:
        """It opens and makes nothing before it starts."""
        home = Path(self.mktemp())
        options = Options()
        options.parseOptions(["--port", "0", "--backend", f"maildir:{home}"])
        service: Any = makeService(options)
        self.assertTrue(IService.providedBy(service))
        self.assertEqual(service.ports, [])
        self.assertFalse(home.exists())

    def test_settings(self) -> None:
        """It has the settings, and a listener for each ``--port``."""
        service: Any = makeService(parse("--port", "0", "--port", "tcp:0", "--banner", "hello"))
        self.assertEqual(service.settings.banner, "hello")
        self.assertEqual([binding.endpoint.name for binding in service.bindings], ["--port 0", "--port tcp:0"])


class CheckTests(TapTestCase):
    """``--check`` tells what would run, and whether it could."""

    def check(self, *arguments: str) -> tuple[int, list[str], list[str]]:
        """Give the exit code, and the lines on stdout and stderr."""
        code = self.exits("--check", "--hostname", "mx.example", *arguments)
        return code, self.out.getvalue().splitlines(), self.err.getvalue().splitlines()

    def test_good(self) -> None:
        """It prints the settings by the options' names, a line each, and the reply to EHLO; the exit code is 0."""
        code, out, err = self.check("--port", "0", "--domain", "x.example", "--max-message-size", "10M")
        self.assertEqual((code, err), (0, []))
        for line in (
            "port = 0",
            "backend = null:",
            "domain = x.example",
            "hostname = mx.example",
            "max-message-size = 10M",
            "max-recipients = 100",
            "timeout = 300",
            "bare-newline = reject",
            "lenient-paths = no",
            "250-mx.example",
            "250-SIZE 10485760",
        ):
            with self.subTest(line):
                self.assertIn(line, out)

    def test_complete(self) -> None:
        """Each option that sets something has its line."""
        _, out, _ = self.check("--port", "0")
        named = {line.partition(" = ")[0] for line in out if " = " in line}
        self.assertEqual({*Options().defaults, "port", "domain"} - named, {"check"})

    def test_bad_port(self) -> None:
        """A busy port is one line, and the exit code is 1."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            code, _, err = self.check("--port", str(number), "--port", "0")
        self.assertEqual(code, 1)
        (line,) = err
        self.assertEqual(
            line,
            f"smtpsvc: --port {number}: 127.0.0.1:{number} is in use by another program; end it or give another port",
        )

    def test_bad_backend(self) -> None:
        """A Maildir that could not be made is one line, the exit code is 1, and nothing is made."""
        file = Path(self.mktemp())
        file.touch()
        code, _, err = self.check("--port", "0", "--backend", f"maildir:{file}/Maildir")
        self.assertEqual((code, len(err)), (1, 1))
        self.assertEqual(err[0][:28], "smtpsvc: --backend: maildir:")

    def test_nothing_made(self) -> None:
        """A Maildir that could be made is not made."""
        home = Path(self.mktemp())
        code, _, _ = self.check("--port", "0", "--backend", f"maildir:{home}")
        self.assertEqual(code, 0)
        self.assertFalse(home.exists())

    def test_rundir(self) -> None:
        """Relative paths are taken from the directory in which twistd will run."""
        self.addCleanup(os.chdir, os.getcwd())
        home = Path(self.mktemp()).resolve()
        home.mkdir(parents=True)
        (home / "file").touch()
        arguments = ["-d", str(home), "smtpsvc", "--check", "--port", "0", "--backend", "maildir:file/Maildir"]
        error = self.assertRaises(SystemExit, Parent().parseOptions, arguments)
        self.assertEqual(error.code, 1)
        self.assertIn(f"{home}/file", self.err.getvalue())

    def test_no_rundir(self) -> None:
        """A directory that does not exist is told by its option."""
        arguments = ["-d", "/nonexistent", "smtpsvc", "--check", "--port", "0", "--backend", "null:"]
        error = self.assertRaises(SystemExit, Parent().parseOptions, arguments)
        self.assertEqual(error.code, 1)
        self.assertIn("smtpsvc: --rundir: ", self.err.getvalue())
