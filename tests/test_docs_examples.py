"""
The documentation does what it shows: its examples run, its commands are understood.
"""

from __future__ import annotations

import doctest
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from twisted.application import service
from twisted.python.usage import UsageError
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase, TestCase

import smtpsvc
from smtpsvc.checkers.passwords import make_entry
from smtpsvc.tap import Options
from tests.live import ROOT, Server, need, run, until
from tests.pages import EXAMPLES, PAGES, blocks, marked_blocks, run_by

#: For who adds a block.
_ADVICE = 'put a comment before it: ".. run by test_module.SomeTests.test_name", or ".. not run: why"'


@contextmanager
def on_path(directory: Path) -> Iterator[None]:
    """Let modules of a directory be imported, and forget them afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) == str(directory / f"{name}.py"):
                del sys.modules[name]


class ExampleTests(SynchronousTestCase):
    def test_shown(self) -> None:
        """Python on a page is an example that is tested here, or a dialogue that is run."""
        shown = {name for page in PAGES.values() for name in re.findall(r"literalinclude:: examples/(\S+)", page)}
        self.assertEqual(shown, {path.name for path in EXAMPLES.iterdir() if path.is_file()})
        for page in PAGES:
            self.assertEqual(list(blocks(page, "python")), [], page)

    def test_dialogues(self) -> None:
        """Each page's dialogues with the interpreter go as they are shown."""
        said: list[str] = []
        runner = doctest.DocTestRunner(verbose=False)
        with on_path(EXAMPLES):
            for page, text in PAGES.items():
                test = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
                runner.run(test, out=said.append)
        self.assertEqual(said, [], "".join(said))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        [failure] = self.flushLoggedErrors(RuntimeError)
        self.assertIn("is code of asyncio, and this reactor is not", str(failure.value))

    def test_unit_test(self) -> None:
        """The test of the tutorial passes."""
        with on_path(EXAMPLES):
            suite = unittest.defaultTestLoader.loadTestsFromName("test_lists.ListTests")
            result = unittest.TestResult()
            suite.run(result)
        self.assertEqual((result.testsRun, result.errors, result.failures), (4, [], []))

    def test_application(self) -> None:
        """The application of the tutorial has the mail service in it."""
        application = service.loadApplication(str(EXAMPLES / "intranet.tac"), "python")
        [mail] = service.IServiceCollection(application)
        self.assertIsInstance(mail, smtpsvc.MailService)
        self.assertEqual(len(mail.bindings), 1)


    def test_counted(self) -> None:
        """The application of the page of monitoring has the pages for a part of the mail service."""
        with on_path(EXAMPLES):
            application = service.loadApplication(str(EXAMPLES / "counted.tac"), "python")
        [mail] = service.IServiceCollection(application)
        self.assertEqual([type(part).__name__ for part in mail], ["MetricsService"])


class BlockTests(SynchronousTestCase):
    def test_tested(self) -> None:
        """Each code block is run, or says why it is not."""
        for page, text in PAGES.items():
            found = list(marked_blocks(page))
            self.assertEqual(len(found), text.count(".. code-block::"), f"{page}: a block that is indented or odd")
            self.assertNotRegex(text, r"(?m)^(?!\.\. ).*::$", f"{page}: a block without a language")
            for mark, language, block in found:
                with self.subTest(f"{page}: {block[:60]}"):
                    self.assertTrue(self.is_tested(mark, language, block), _ADVICE)

    def is_tested(self, mark: str, language: str, block: str) -> bool:
        """Tell whether a block is run, or its mark says more than that it is not."""
        if mark.startswith("run by "):
            module, *names = mark.removeprefix("run by ").split(".")
            code = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
            return all(re.search(rf"(?m)^ *(?:class|def|async def) {name}\b", code) for name in names)
        if mark:
            return len(mark.removeprefix("not run:").split()) > 1
        # CommandTests has these.
        return language == "shell" and all("smtpsvc" in line.split() for line in block.splitlines())


class LiveTests(TestCase):
    """Examples as processes of their own."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="smtpsvc-docs-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        for example in EXAMPLES.glob("*.py"):
            shutil.copy(example, self.directory)

    def serve(self, *options: str) -> Server:
        """Run the service with options."""
        server = Server(*options, directory=str(self.directory))
        self.addCleanup(server.close)
        return server

    def send(self, server: Server, recipient: str) -> subprocess.CompletedProcess[bytes]:
        """Send a message with the command that the tutorial shows."""
        [command] = {line for line in "\n".join(blocks("tutorial.rst", "shell")).splitlines() if "printf" in line}
        command = command.replace("127.0.0.1:2525", f"127.0.0.1:{server.port}").replace("you@example.com", recipient)
        return subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)

    def test_tutorial(self) -> None:
        """The first message of the tutorial is in the Maildir, and its line in the log, as shown."""
        need("curl")
        server = self.serve()
        self.assertEqual(self.send(server, "you@example.com").returncode, 0)
        [mail] = server.mails()
        [shown] = (text for text in blocks("tutorial.rst", "text") if text.startswith("Return-Path"))
        pattern = re.escape(shown).replace("laptop", r"\S+").replace("6b00087986d5d8n2", "[0-9a-fn]+")
        pattern = re.sub(r"Fri,.*?\\\+0000", ".* [+]0000", pattern)
        self.assertRegex(mail.decode().replace("\r\n", "\n"), pattern)
        server.stop()
        self.assertRegex(
            server.log.read_text(),
            r"[0-9a-fn]+ 250 from 127\.0\.0\.1 \('.*'\): 'me@example\.com' to 'you@example\.com', \d+ bytes, [0-9.]+ s",
        )

    def test_function(self) -> None:
        """The ten lines take mail, behind the command line and as a program."""
        need("curl")
        server = self.serve("--backend", "python:hello.backend")
        self.assertEqual(self.send(server, "you@example.com").returncode, 0)
        until(lambda: "me@example.com -> you@example.com" in server.log.read_text(), "the message is printed")
        program = (self.directory / "hello.py").read_text()
        self.assertIn('"tcp:2525"', program)
        (self.directory / "program.py").write_text(
            program.replace('"tcp:2525"', '"tcp:0:interface=127.0.0.1"').replace(
                "await defer.Deferred()", "print('listening')"
            )
        )
        done = run(sys.executable, "program.py", cwd=self.directory, env={**os.environ, "PYTHONPATH": str(ROOT)})
        self.assertEqual(done.stdout, b"listening\n")

    def test_lists(self) -> None:
        """The lists of the tutorial take mail that is for a list, and keep it."""
        need("curl")
        (self.directory / "lists.txt").write_text("all@lists.example\n")
        (self.directory / "archive").mkdir()
        server = self.serve("--backend", "python:lists.make")
        self.assertNotEqual(self.send(server, "nobody@lists.example").returncode, 0)
        self.assertEqual(self.send(server, "all@lists.example").returncode, 0)
        [kept] = (self.directory / "archive").iterdir()
        self.assertTrue(kept.read_bytes().endswith(b"Subject: hello\r\n\r\nhi\r\n"))

    def test_plugin(self) -> None:
        """The plugin file of the page of backends gives the command line a backend."""
        plugins = self.directory / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        shutil.copy(EXAMPLES / "lists_plugin.py", plugins)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.directory), str(ROOT)])}
        command = [sys.executable, "-m", "smtpsvc"]
        done = run(*command, "--help-backends", env=environment, cwd=self.directory)
        self.assertIn(b"lists:FILE ", done.stdout)
        done = run(*command, "--help-backend", "lists", env=environment, cwd=self.directory)
        self.assertIn(b"lists:FILE\n\nDeliver to mailing lists.\n", done.stdout)
        done = run(*command, "--check", "--port", "0", "--backend", "lists:lists.txt", env=environment)
        self.assertIn(b"backend = lists:lists.txt\n", done.stdout)

    def test_policy_plugin(self) -> None:
        """The plugin file of the page of policies gives the command line a policy."""
        plugins = self.directory / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        shutil.copy(EXAMPLES / "greylist_plugin.py", plugins)
        path = os.pathsep.join([str(self.directory), str(EXAMPLES), str(ROOT)])
        command = [sys.executable, "-m", "smtpsvc"]
        done = run(*command, "--help-policy", "delays", env={**os.environ, "PYTHONPATH": path}, cwd=self.directory)
        self.assertTrue(done.stdout.startswith(b"delays:delay=TIME\n\nAsk senders that are new"), done)
        options = ("--check", "--port", "0", "--backend", "null:", "--policy", "delays:delay=1m,warn-only")
        done = run(*command, *options, env={**os.environ, "PYTHONPATH": path}, cwd=self.directory)
        self.assertIn(b"policy = delays:delay=1m,warn-only\n", done.stdout)


class CommandTests(SynchronousTestCase):
    def test_understood(self) -> None:
        """Every command line of the service that a page shows, and nothing else runs, is understood."""
        known = 0
        for page in PAGES:
            text = "\n".join(text for mark, kind, text in marked_blocks(page) if kind == "shell" and not mark)
            for command in re.split(r"&&|\n", text):
                words = shlex.split(command)
                if "smtpsvc" in words:
                    known += 1
                    with self.subTest(command):
                        self.understand(words)
        self.assertGreater(known, 10)

    def understand(self, words: list[str]) -> None:
        """Parse a command line, but for what would look at the ports of this machine."""
        words = [word.replace("/etc/mail/users", self.users()) if "/etc/mail/users" in word else word for word in words]
        cut = words.index("smtpsvc")
        before, after = words[:cut], [word for word in words[cut + 1 :] if word != "--check"]
        if os.path.basename(before[0]) == "twistd":
            ServerOptions().parseOptions(before[1:])
        else:
            self.assertIn([os.path.basename(before[0]), *before[1:]], (["twist"], ["python", "-m"]))
        if "lists:lists.txt" in after:
            return  # its plugin is tried above
        here = os.getcwd()
        os.chdir(EXAMPLES)
        try:
            with on_path(EXAMPLES), redirect_stdout(io.StringIO()):
                Options().parseOptions(after)
        except SystemExit as end:
            self.assertIn(end.code, (0, None))
        finally:
            os.chdir(here)

    def users(self) -> str:
        """Make a file of passwords, for pages whose readers have one."""
        path = Path(self.mktemp())
        path.write_text("alice:" + make_entry("open sesame") + "\n")
        return str(path.absolute())

    def test_mistakes(self) -> None:
        """The mistakes on the pages are worded as shown."""
        shown = "\n".join(run_by("test_docs_examples.CommandTests.test_mistakes"))
        mistakes = (["--prt", "1"], ["--port", "99999"], ["--port", "1.2.3.4:25"], ["--policy", "deny:10.0.0.1/8"])
        for options, sentence in zip(mistakes, shown.split("\n"), strict=True):
            with self.subTest(options=options):
                error = self.assertRaises(UsageError, Options().parseOptions, options)
                self.assertEqual(f"smtpsvc: {error}", sentence)

    def test_check(self) -> None:
        """What --check prints is as shown, in this order."""
        [shown] = (text for text in blocks("operating.rst", "text") if text.startswith("port = "))
        command = [sys.executable, "-m", "smtpsvc", "--check", "--hostname", "mx.example.org", "--port", "0"]
        done = run(*command, env={**os.environ, "PYTHONPATH": str(ROOT)})
        said = iter(done.stdout.decode().splitlines())
        for line in re.sub("port( =)? 2525", r"port\1 0", shown).replace("...", "").split("\n"):
            self.assertTrue(not line or line in said, f"{line!r}, in this place")
