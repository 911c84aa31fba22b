"""
The programs in examples/ do what they say, each as a process of its own, with real sockets.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import smtplib
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import AUTHORITY
from tests.live import PATIENCE, ROOT, Postfix, need, run, until
from tests.pages import PAGES

EXAMPLES = ROOT / "examples"
ANY_PORT = "tcp:0:interface=127.0.0.1"
SENDER, RECIPIENT = "a@x.example", "b@y.example"
TEXT = b"Subject: hello\r\n\r\nhi\r\n"


def listening_ports(pid: int) -> list[int]:
    """Give the TCP ports on which a process listens, in the order in which it opened them."""
    inodes = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            inodes[f"socket:[{fields[9]}]"] = int(fields[1].partition(":")[2], 16)
    found = []
    for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        with contextlib.suppress(OSError):
            found.append(inodes.get(os.readlink(f"/proc/{pid}/fd/{name}"), 0))
    return [port for port in found if port]


class Example:
    """
    A program of examples/ that runs.

    :param command: its name, and its arguments.
    """

    def __init__(self, directory: Path, *command: str, **environment: str) -> None:
        self.log = directory / f"log-{command[0]}"
        if command[0].endswith(".tac"):
            command = ("-m", "twisted", "-n", "-y", str(EXAMPLES / command[0]))
            command = ("-c", "from twisted.scripts.twistd import run; run()", *command[2:], "--pidfile=")
        else:
            command = (str(EXAMPLES / command[0]), *command[1:])
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    def ports(self, count: int = 1) -> list[int]:
        """Wait until it listens, and give its ports."""

        def opened() -> list[int]:
            if self.process.poll() is not None:
                raise AssertionError(f"it has ended: {self.output}")
            found = listening_ports(self.process.pid)
            return found if len(found) >= count else []

        found: list[int] = until(opened, "the example listens")
        return found

    def client(self, source: str = "127.0.0.1") -> smtplib.SMTP:
        """Connect to the port that it has opened last."""
        client = smtplib.SMTP("127.0.0.1", self.ports()[-1], timeout=PATIENCE, source_address=(source, 0))
        client.ehlo("client.example")
        return client

    def send(self, *recipients: str, content: bytes = TEXT, sender: str = SENDER, options: Any = ()) -> None:
        """Send a message."""
        with self.client() as client:
            client.sendmail(sender, recipients or (RECIPIENT,), content, mail_options=options)

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit status is given."""
        if self.process.poll() is None:
            self.process.send_signal(2)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)


class ExampleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="smtpsvc-examples-"))
        self.home.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)

    def start(self, *command: str, **environment: str) -> Example:
        """Run an example."""
        if not Path("/proc/self/net/tcp").exists():
            self.skipTest("there is no /proc that tells the port of a process")
        example = Example(self.home, *command, **environment)
        self.addCleanup(example.close)
        return example

    def refused(self, code: int, call: Any, *args: Any, **more: Any) -> None:
        """Check that a client is refused."""
        try:
            call(*args, **more)
        except smtplib.SMTPRecipientsRefused as error:
            self.assertEqual({each[0] for each in error.recipients.values()}, {code})
        except smtplib.SMTPResponseException as error:
            self.assertEqual(error.smtp_code, code)
        else:
            self.fail("it was not refused")

    def test_all(self) -> None:
        """Every example has a test here, and stands on the page of examples."""
        names = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
        here = Path(__file__).read_text()
        shown = set(re.findall(r"literalinclude:: \.\./examples/(\S+)", PAGES["examples.rst"]))
        self.assertEqual({name for name in names if f'self.start("{name}"' not in here}, set())
        self.assertEqual(shown, names)

    def test_printer(self) -> None:
        """The printer prints a line for each message, in ten lines of code."""
        example = self.start("printer.py", ANY_PORT)
        example.send(RECIPIENT, "c@y.example")
        self.assertRegex(example.output, r"^a@x\.example -> b@y\.example c@y\.example \d+ bytes\n$")
        example.stop()

    def test_readme(self) -> None:
        """The ten lines of the README are those of the printer, without types and with a fixed port."""
        text = (ROOT / "README.rst").read_text()
        [shown] = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", text)
        program = (EXAMPLES / "printer.py").read_text()
        for line in (line.strip() for line in shown.splitlines()):
            if line.startswith(("print", "@", "await endpoints", "await defer", "from twisted")):
                self.assertIn(line.replace('"tcp:2525"', "where"), program)

    def test_webhook(self) -> None:
        """The webhook posts a form, and answers as the application does; a large message comes whole."""
        with application() as (url, posts, answers):
            example = self.start("webhook.py", url, ANY_PORT)
            large = TEXT + b"0123456789\r\n" * 200_000
            example.send(RECIPIENT, "c@y.example", content=large)
            answers[:] = [503]
            self.refused(451, example.send)
            answers[:] = [403]
            self.refused(451, example.send)
        form = posts[0]
        self.assertEqual([part for name, part in form if name == "recipient"], [RECIPIENT.encode(), b"c@y.example"])
        self.assertTrue(dict(form)["message"].endswith(large), len(dict(form)["message"]))
        self.assertEqual(dict(form)["sender"], SENDER.encode())
        self.refused(451, example.send)
        self.assertNotIn("Traceback", example.output)

    def test_maildir(self) -> None:
        """The application keeps mail in its Maildir, and ends when it is told to."""
        example = self.start("maildir.tac", MAIL_ENDPOINT=ANY_PORT)
        example.send()
        [path] = (self.home / "Maildir" / "new").iterdir()
        self.assertTrue(path.read_bytes().endswith(TEXT))
        self.assertEqual(example.stop(), -2)  # Twisted ends by the signal that it got
        self.assertIn("Server Shut Down.", example.output)

    def test_content_filter(self) -> None:
        """Postfix gets its mail back with a mark, and returns to its sender what the filter refuses."""
        need("postfix")
        sink = self.start("printer.py", ANY_PORT)
        where = self.home / "filter"
        postfix = Postfix(
            "after-filter unix n - n - - smtpd -o content_filter= -o receive_override_options=no_header_body_checks",
            content_filter=f"lmtp:unix:{where}",
            relayhost=f"[127.0.0.1]:{sink.ports()[0]}",
        )
        self.addCleanup(postfix.close)
        back = Path(postfix.socket).with_name("after-filter")
        example = self.start("content_filter.py", f"unix:{where}:mode=666", f"unix:{back}")
        until(where.exists, "the filter listens")
        postfix.send(SENDER, [RECIPIENT], b"Subject: hello\n\nhi\n")
        until(lambda: f"{SENDER} -> {RECIPIENT}" in sink.output, "the message is through")
        self.assertEqual(example.output, "")
        postfix.send(SENDER, [RECIPIENT], b"Subject: an unwanted one\n\nhi\n")
        line = until(lambda: postfix.logged("status=bounced"), "the other is refused")
        self.assertIn("said: 550 5.7.1 Nobody wants this", line)

    def test_mailboxes(self) -> None:
        """Each account has a Maildir of its own, whatever its name is, and nobody else has one."""
        hashed = run(
            sys.executable, "-m", "smtpsvc.checkers.htpasswd", "anna", input=b"sesame\n", cwd=ROOT
        ).stdout.decode()
        (self.home / "users").write_text(hashed + hashed.replace("anna", "../bert"))
        example = self.start("mailboxes.py", "users", "boxes", ANY_PORT)
        self.refused(530, example.send)
        for name in ("anna", "../bert"):
            with example.client() as client:
                client.login(name, "sesame")
                client.sendmail(SENDER, [RECIPIENT], TEXT)
        boxes = self.home / "boxes"
        self.assertEqual({path.name for path in boxes.iterdir()}, {"anna", "%2E%2E%2Fbert"})
        for path in boxes.iterdir():
            self.assertEqual(len(list((path / "new").iterdir())), 1)
        example.stop()

    def test_extension(self) -> None:
        """The extension counts, tells and refuses."""
        example = self.start("extension.py", ANY_PORT)
        with example.client() as client:
            self.assertEqual(client.esmtp_features["xtenant"], "2")
            self.assertEqual(client.docmd("XLEFT acme"), (250, b"2.0.0 acme may send 2 more"))
            for expected in (250, 250, 550):
                self.assertEqual(client.docmd("MAIL FROM:<a@x.example> XTENANT=acme")[0], expected)
                client.rset()
            self.assertEqual(client.docmd("MAIL FROM:<a@x.example> XTENANT=A-B")[0], 501)
            self.assertEqual(client.docmd("XLEFT nobody")[0], 550)

    def test_mechanism(self) -> None:
        """The digits of now log in, once."""
        example = self.start("mechanism.py", "anna=JBSWY3DPEHPK3PXP", ANY_PORT)
        sys.path.insert(0, str(EXAMPLES))
        self.addCleanup(sys.path.remove, str(EXAMPLES))
        from mechanism import code  # type: ignore[import-not-found, unused-ignore]

        self.addCleanup(sys.modules.pop, "mechanism")
        self.assertEqual([code(b"12345678901234567890", step) for step in (0, 1)], ["755224", "287082"])  # RFC 4226
        with example.client() as client:
            self.assertEqual(client.esmtp_features["auth"].split(), ["X-TOTP"])
            digits = code(base64.b32decode("JBSWY3DPEHPK3PXP"), int(time.time()) // 30)
            for name, expected in (("bert", 535), ("anna", 235)):
                response = base64.b64encode(f"{name}\0{digits}".encode()).decode()
                self.assertEqual(client.docmd("AUTH X-TOTP")[0], 334)
                self.assertEqual(client.docmd(response)[0], expected)
        with example.client() as client:
            self.assertEqual(client.docmd(f"AUTH X-TOTP {response}")[0], 535)

    def test_policy(self) -> None:
        """Mail for a signed address is taken, and for no other."""
        example = self.start("policy.py", "secret", ANY_PORT)
        line = "import policy; print(policy.Signed('secret').sign('anna+shop'))"
        environment = {**os.environ, "PYTHONPATH": f"{EXAMPLES}{os.pathsep}{ROOT}"}
        local = run(sys.executable, "-c", line, env=environment).stdout.decode().strip()
        self.assertRegex(local, r"^anna\+shop-[0-9a-f]{8}$")
        example.send(f"{local.title()}@example.org")
        for recipient in (f"{local}@example.net", f"x{local}@example.org", "anna@example.org", "anna-@example.org"):
            self.refused(550, example.send, recipient)

    def test_store(self) -> None:
        """A message is in the database when it was answered 250."""
        example = self.start("store.py", "mail.sqlite", ANY_PORT)
        example.send(RECIPIENT, "c@y.example")
        with contextlib.closing(sqlite3.connect(self.home / "mail.sqlite")) as database:
            [(sender, content)] = database.execute("SELECT sender, content FROM message")
            recipients = database.execute("SELECT address FROM recipient ORDER BY address").fetchall()
            database.execute("DROP TABLE message")
            database.commit()
        self.assertEqual((sender, recipients), (SENDER, [(RECIPIENT,), ("c@y.example",)]))
        self.assertTrue(content.endswith(TEXT))
        self.refused(451, example.send)

    def test_with_web(self) -> None:
        """A message is on the page at once, and nothing in it is HTML."""
        example = self.start("with_web.py", ANY_PORT, ANY_PORT)
        web, _ = example.ports(2)
        example.send('"<b>"@x.example')
        with urllib.request.urlopen(f"http://127.0.0.1:{web}/", timeout=PATIENCE) as page:
            text = page.read().decode()
        self.assertRegex(text, r"<ol><li>a@x\.example to &quot;&lt;b&gt;&quot;@x\.example, \d+ bytes</li></ol>$")
        example.stop()

    def test_with_asyncio(self) -> None:
        """The program of asyncio gets each message, and Ctrl-C ends it in good order."""
        example = self.start("with_asyncio.py", ANY_PORT)
        example.send()
        until(lambda: f"{SENDER} -> {RECIPIENT}\n" in example.output, "it is printed")
        self.assertEqual(example.stop(), 0)
        self.assertNotIn("Traceback", example.output)

    def test_sessions(self) -> None:
        """Near and far clients see another certificate, mechanisms and extensions; far ones are refused at DATA."""
        for name in ("near", "far"):
            certificate = b"".join(AUTHORITY.issue("localhost", f"{name}.example"))
            (self.home / f"{name}.pem").write_bytes(certificate)
        example = self.start("sessions.py", "near.pem", "far.pem", ANY_PORT)
        context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
        for name, source in (("near", "127.0.0.1"), ("far", "127.0.0.2")):
            with example.client(source) as client:
                client._host = "localhost"  # type: ignore[attr-defined]
                client.starttls(context=context)
                client.ehlo("client.example")
                assert isinstance(client.sock, ssl.SSLSocket)
                names = str(client.sock.getpeercert())
                self.assertIn(f"{name}.example", names)
                near = name == "near"
                self.assertEqual(client.has_extn("8bitmime"), near)
                self.assertEqual("PLAIN" in client.esmtp_features["auth"].split(), near)
                client.user, client.password = "anna", "sesame"
                self.assertEqual(client.auth("CRAM-MD5", client.auth_cram_md5)[0], 235)
                client.mail(SENDER)
                for _ in range(3):
                    client.rcpt(RECIPIENT)
                self.assertEqual(client.docmd("DATA")[0], 354 if near else 550)
                client.send(b"hi\r\n.\r\n" if near else b"RSET\r\n")
                self.assertEqual(client.getreply()[0], 250)


@contextlib.contextmanager
def application() -> Iterator[tuple[str, list[list[tuple[str, bytes]]], list[int]]]:
    """Run a web application: its URL, the forms that it got, and its next answers, which are 204 without."""
    posts: list[list[tuple[str, bytes]]] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            _, _, boundary = self.headers["Content-Type"].partition("boundary=")
            parts = body.split(b"--" + boundary.encode())[1:-1]
            posts.append([field(part) for part in parts])
            self.send_response(answers.pop() if answers else 204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/mail", posts, answers
        finally:
            server.shutdown()
            thread.join()


def field(part: bytes) -> tuple[str, bytes]:
    """Give the name and the content of a part of a form."""
    head, _, content = part.removesuffix(b"\r\n").partition(b"\r\n\r\n")
    [name] = re.findall(rb'\bname="([^"]+)"', head)
    return name.decode(), content
