"""
Tests of the whole: real processes of twistd, twist and ``python -m smtpsvc``, with real clients.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import smtplib
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twisted.trial.unittest import SynchronousTestCase

import smtpsvc

T = TypeVar("T")

#: How long a process may take for one step; only a failing test takes so long.
PATIENCE = 60.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(smtpsvc.__file__).parent.parent), "COLUMNS": "80"}
MAIL = "Subject: hello\r\n\r\nhi\r\n"

TWISTD = [sys.executable, "-c", "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"]
FOREGROUND = {
    "twistd": [*TWISTD, "-n", "smtpsvc"],
    "twist": [sys.executable, "-m", "twisted", "--log-format=text", "smtpsvc"],
    "python -m": [sys.executable, "-m", "smtpsvc"],
}


def wait_for(found: Callable[[], T | None], what: str) -> T:
    """
    Wait until a function finds something.

    :raises AssertionError: if it does not in time.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        result = found()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


def ports_in(log: str) -> list[int]:
    """Find the numbers in the first start line."""
    match = re.search(r"listening for SMTP on (.*?); mail goes to", log)
    assert match is not None, log
    return [int(number) for number in re.findall(r"(?:\.\d+|\]):(\d+)", match[1])]


def send(port: int, host: str = "127.0.0.1") -> None:
    """Send a mail by smtplib."""
    with smtplib.SMTP(host, port, timeout=PATIENCE) as client:
        client.sendmail("me@example.com", ["you@example.com"], MAIL)


def is_free(port: int) -> bool:
    """Whether nothing listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


def is_running(pid: int) -> bool:
    """Whether there is a process of that number which has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class ProcessTestCase(SynchronousTestCase):
    """Runs processes in a directory of its own, and ends them."""

    def setUp(self) -> None:
        """Make the directory; every user can look in, since some processes give up their rights."""
        self.home = Path(tempfile.mkdtemp(prefix="smtpsvc-test-")).resolve()
        self.home.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.log = self.home / "log"

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a process in the foreground, with its output in the log, and wait until it listens."""
        with self.log.open("w") as log:
            process = subprocess.Popen(command, cwd=self.home, env=ENVIRONMENT, stdout=log, stderr=log, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_for(lambda: "to try it: " in self.log.read_text() or process.poll() is not None, "the start lines")
        return process

    def run_through(self, *command: str) -> tuple[int, str, str]:
        """Run a process that ends, or puts itself into the background; give its code, stdout and stderr."""
        done = subprocess.run(
            command, cwd=self.home, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def daemon(self, *arguments: str, before: tuple[str, ...] = ()) -> int:
        """Start a daemon; give its process number. It is ended after the test."""
        pid_file = self.home / "pid"
        code, out, err = self.run_through(
            *TWISTD, f"--pidfile={pid_file}", f"--logfile={self.log}", *before, "smtpsvc", *arguments
        )
        log = self.log.read_text() if self.log.exists() else ""
        self.assertEqual((code, out, err), (0, "", ""), log)
        pid_file = next(path for path in self.home.rglob("pid"))
        pid = int(pid_file.read_text())
        self.addCleanup(self.end, pid, signal.SIGKILL)
        wait_for(lambda: "to try it: " in self.log.read_text(), "the start lines")
        return pid

    def end(self, pid: int, number: signal.Signals = signal.SIGTERM) -> None:
        """End a process that is ours, and wait until it has ended."""
        if is_running(pid):
            os.kill(pid, number)
            wait_for(lambda: not is_running(pid), "the end of the daemon")

    def mails(self, maildir: Path) -> list[bytes]:
        """Give the messages in a Maildir."""
        return [path.read_bytes() for path in (maildir / "new").iterdir()]


class ForegroundTests(ProcessTestCase):
    """``twistd -n``, ``twist`` and ``python -m``: the service until Ctrl-C."""

    def test_mail(self) -> None:
        """Each takes mail on both loopback addresses, keeps it, and ends by Ctrl-C without a traceback."""
        for name, command in FOREGROUND.items():
            with self.subTest(name):
                process = self.start(*command, "--port", "0")
                log = self.log.read_text()
                for host, port in zip(("127.0.0.1", "::1"), ports_in(log), strict=False):
                    send(port, host)
                maildir = self.home / "Maildir"
                self.assertIn(f"mail goes to {maildir}", log)
                mails = self.mails(maildir)
                self.assertEqual(len(mails), len(ports_in(log)))
                for mail in mails:
                    self.assertTrue(mail.endswith(MAIL.encode()), mail)
                process.send_signal(signal.SIGINT)
                self.assertEqual(process.wait(PATIENCE), -signal.SIGINT)
                self.assertNotIn("Traceback", self.log.read_text())
                self.assertFalse((self.home / "twistd.pid").exists())
                shutil.rmtree(maildir)

    def test_command_to_try(self) -> None:
        """The command that is printed sends a mail, as it is printed."""
        if shutil.which("curl") is None:
            self.skipTest("curl is not installed")
        for listener in ("0", "tcp:0", "unix:smtp.sock"):
            with self.subTest(listener):
                self.start(*FOREGROUND["python -m"], "--port", listener, "--domain", "x.example")
                command = self.log.read_text().partition("to try it: ")[2].splitlines()[0]
                self.assertEqual(self.run_through("/bin/sh", "-c", command), (0, "", ""))
                (mail,) = self.mails(self.home / "Maildir")
                self.assertTrue(mail.endswith(b"\r\nSubject: hello\r\n\r\nhi\r\n"), mail)
                self.assertIn(b"Delivered-To: you@x.example\r\n", mail)
                shutil.rmtree(self.home / "Maildir")

    def test_public(self) -> None:
        """A public address without ``--domain`` is warned of."""
        self.start(*FOREGROUND["python -m"], "--port", "tcp:0", "--backend", "null:")
        wait_for(lambda: "--port tcp:0 is open to other machines" in self.log.read_text(), "the warning")

    def test_farewell(self) -> None:
        """A client that is idle when the service ends is told 421 4.3.2."""
        process = self.start(*FOREGROUND["twistd"], "--port", "0", "--backend", "null:")
        with socket.create_connection(("127.0.0.1", ports_in(self.log.read_text())[0]), PATIENCE) as client:
            lines = client.makefile("rb")
            self.assertEqual(lines.readline()[:4], b"220 ")
            client.sendall(b"EHLO client.example\r\n")
            while lines.readline()[:4] != b"250 ":
                pass
            process.send_signal(signal.SIGTERM)
            self.assertEqual(lines.readline()[:10], b"421 4.3.2 ")
            self.assertEqual(lines.readline(), b"")
        self.assertEqual(process.wait(PATIENCE), -signal.SIGTERM)

    def test_inherited_socket(self) -> None:
        """A socket that systemd has opened is listened on."""
        with socket.create_server(("127.0.0.1", 0)) as ours:
            script = 'export LISTEN_FDS=1 LISTEN_FDNAMES=smtp LISTEN_PID=$$; exec "$@" 3<&0'
            service = (*FOREGROUND["twistd"], "--port", "systemd:domain=INET:index=0", "--backend", "null:")
            process = subprocess.Popen(
                ["/bin/sh", "-c", script, "sh", *service],
                cwd=self.home,
                env=ENVIRONMENT,
                stdin=ours.fileno(),
                stdout=subprocess.DEVNULL,
            )
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            send(ours.getsockname()[1])


class MistakeTests(ProcessTestCase):
    """A mistake is one line and exit code 1, whatever runs the service."""

    def check(self, *arguments: str, sentence: str) -> None:
        """Each way to run the service refuses *arguments* with the same line on stderr."""
        for name, command in FOREGROUND.items():
            with self.subTest(name):
                code, out, err = self.run_through(*command, *arguments)
                self.assertEqual((code, err), (1, f"smtpsvc: {sentence}\n"))
                self.assertNotIn("Traceback", out)
                self.assertNotIn("Usage", out)
                self.assertEqual(list(self.home.glob("twistd.pid")), [])

    def test_option(self) -> None:
        """An unknown option."""
        self.check("--prot", "25", sentence="--prot is no option; did you mean --port?")

    def test_value(self) -> None:
        """A value that cannot be."""
        self.check(
            "--port", "tcp:99999", sentence="--port tcp:99999: 99999 is no port; ports go from 1 to 65535, "
            "and 0 takes a free one"
        )

    def test_busy_port(self) -> None:
        """A port in use; nothing of the service starts."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            self.check(
                "--port", "0", "--port", str(number), sentence=f"--port {number}: 127.0.0.1:{number} is in use by "
                "another program; end it or give another port"
            )
        self.assertFalse((self.home / "Maildir").exists())

    def test_directory(self) -> None:
        """A Maildir that cannot be made."""
        (self.home / "file").touch()
        self.check(
            "--port", "0", "--backend", "maildir:file/x", sentence="--backend: maildir: mail cannot be kept in "
            f"{self.home}/file/x (Not a directory); name a directory that this user can make or write to"
        )

    def test_python(self) -> None:
        """A backend that cannot be imported."""
        self.check(
            "--backend", "python:nowhere.x", sentence="--backend: python:nowhere.x cannot be imported: "
            "ModuleNotFoundError: No module named 'nowhere'"
        )

    def test_check(self) -> None:
        """``--check`` gives the exit code, and starts nothing."""
        for name, command in FOREGROUND.items():
            with self.subTest(name):
                code, out, err = self.run_through(*command, "--check", "--port", "0")
                self.assertEqual((code, err), (0, ""))
                self.assertIn("\nbackend = maildir:./Maildir\n", out)
                self.assertIn("\n250-PIPELINING\n", out)
                self.assertEqual(list(self.home.iterdir()), [])

    def test_version(self) -> None:
        """``--version`` is that of smtpsvc."""
        for name, command in FOREGROUND.items():
            with self.subTest(name):
                self.assertEqual(
                    self.run_through(*command, "--version"), (0, f"smtpsvc {smtpsvc.__version__}\n", "")
                )


class DaemonTests(ProcessTestCase):
    """``twistd smtpsvc``: the service in the background."""

    def test_mail(self) -> None:
        """It takes mail and keeps it below ``--rundir``; what it has to say is in the log."""
        rundir = self.home / "run"
        rundir.mkdir()
        pid = self.daemon("--port", "0", before=(f"--rundir={rundir}",))
        log = self.log.read_text()
        self.assertIn(f"mail goes to {rundir}/Maildir", log)
        send(ports_in(log)[0])
        (mail,) = self.mails(rundir / "Maildir")
        self.assertTrue(mail.endswith(MAIL.encode()), mail)
        self.end(pid)
        self.assertFalse((self.home / "pid").exists())
        self.assertNotIn("Traceback", self.log.read_text())

    def failed(self, *arguments: str) -> tuple[int, str]:
        """Start a daemon that cannot start; give the code and what the terminal shows."""
        code, out, err = self.run_through(
            *TWISTD, f"--pidfile={self.home}/pid", f"--logfile={self.log}", "smtpsvc", *arguments
        )
        # The daemon removes it after it has told the terminal.
        wait_for(lambda: not (self.home / "pid").exists(), "the pid file to be removed")
        self.assertNotIn("Traceback", self.log.read_text())
        return code, out + err

    def test_busy_port(self) -> None:
        """A port in use is one sentence on the terminal, another in the log, and exit code 1."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            code, shown = self.failed("--port", "0", "--port", str(number))
        sentence = f"--port {number}: 127.0.0.1:{number} is in use by another program; end it or give another port"
        self.assertEqual(code, 1)
        self.assertIn(f"'{sentence}'", shown)
        # The daemon logs it after it has told the terminal.
        wait_for(lambda: f"[smtpsvc#critical] {sentence}\n" in self.log.read_text(), "the sentence in the log")

    def test_directory(self) -> None:
        """A Maildir that cannot be made is told as well, in full in the log; no port stays open."""
        (self.home / "file").touch()
        with socket.create_server(("127.0.0.1", 0)) as free:
            number = free.getsockname()[1]
        backend = f"maildir:{self.home}/file/x"
        code, shown = self.failed("--port", f"tcp:{number}:interface=127.0.0.1", "--backend", backend)
        self.assertEqual(code, 1)
        self.assertIn("--backend: maildir: mail cannot be kept in", shown)
        wait_for(lambda: "(Not a directory); name a directory" in self.log.read_text(), "the sentence in the log")
        wait_for(lambda: is_free(number), "the port to be free again")

    def test_option(self) -> None:
        """A mistake in the options is told before anything is in the background."""
        code, out, err = self.run_through(*TWISTD, "smtpsvc", "--prot", "25")
        self.assertEqual((code, out, err), (1, "", "smtpsvc: --prot is no option; did you mean --port?\n"))
        self.assertEqual(list(self.home.iterdir()), [])


class PrivilegeTests(ProcessTestCase):
    """What only root can do: ports below 1024, and giving up rights."""

    def setUp(self) -> None:
        """Skip all where the tests are not run by root."""
        super().setUp()
        if os.getuid() != 0:
            self.skipTest("only root can change its user or its root directory")

    def low_port(self) -> int:
        """Find a free port below 1024."""
        for number in range(1023, 600, -1):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", number))
                except OSError:
                    continue
                return number
        raise AssertionError("no port below 1024 is free")

    def test_user(self) -> None:
        """With ``--uid`` and ``--gid`` the port is bound as root, and mail is kept as that user."""
        rundir = self.home / "run"
        rundir.mkdir()
        os.chown(rundir, 65534, 65534)
        number = self.low_port()
        pid = self.daemon(
            "--port", str(number), before=(f"--rundir={rundir}", "--uid=65534", "--gid=65534", "--umask=077")
        )
        send(number)
        (file,) = (rundir / "Maildir" / "new").iterdir()
        status = file.stat()
        self.assertEqual((status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)), (65534, 65534, 0o600))
        self.assertEqual(os.stat(f"/proc/{pid}").st_uid, 65534)
        self.end(pid)

    def test_root_directory(self) -> None:
        """With ``--chroot`` the Maildir is made below the new root, and mail of any kind is taken."""
        root = self.home / "root"
        (root / "dev").mkdir(parents=True)
        # A daemon opens it; twistd leaves it to the one who makes the directory.
        os.mknod(root / "dev" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        pid = self.daemon("--port", "0", before=(f"--chroot={root}", "--pidfile=/pid"))
        log = self.log.read_text()
        self.assertIn("mail goes to /Maildir", log)
        port = ports_in(log)[0]
        send(port)
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            client.ehlo("client.example")
            client.command_encoding = "utf-8"
            for line, code in (("MAIL FROM:<ü@bücher.example> SMTPUTF8", 250), ("RCPT TO:<x@bücher.example>", 250)):
                self.assertEqual(client.docmd(line)[0], code)
            self.assertEqual(client.data(b"Subject: x\r\n")[0], 250)
        self.assertEqual(len(self.mails(root / "Maildir")), 2)
        self.end(pid)
        self.assertNotIn("Traceback", self.log.read_text())


