"""
Real processes for tests: the service itself, and programs that talk to it.

Every process is ended by its own pid, listens on loopback only, and on a free port.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import SkipTest

ROOT = Path(__file__).resolve().parent.parent

#: Seconds to wait for what a loaded machine may do late; nothing is asserted of the time it takes.
PATIENCE = 60.0


def need(program: str) -> str:
    """
    Find a program of the system.

    :raises SkipTest: if it is not installed.
    """
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise SkipTest(f"{program} is not installed")
    return found


def free_port() -> int:
    """Find a port of 127.0.0.1 that nothing listens on, for a program that takes a number only."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until(claim: Any, what: str) -> Any:
    """
    Wait for *claim* to give something true, and give it.

    :raises AssertionError: with *what* if it does not in time.
    """
    end = time.monotonic() + PATIENCE
    while True:
        found = claim()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.01)


class Server:
    """
    ``python -m smtpsvc`` with options, in a directory of its own.

    :param options: for the command line; ``--port`` on a free port of 127.0.0.1 is added.
    :param limits: called in the child before it runs, for resource limits.
    """

    def __init__(self, *options: str, directory: str | None = None, limits: Any = None) -> None:
        self.directory = Path(directory or tempfile.mkdtemp(prefix="smtpsvc-"))
        self._own = directory is None
        self.log = self.directory / f"log-{time.monotonic_ns()}"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "smtpsvc", "--port", "tcp:0:interface=127.0.0.1", *options],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=limits,  # noqa: PLW1509, it only sets limits
            )
        self.port: int = until(self._listening, "the service listens")

    def _listening(self) -> int | None:
        if self.process.poll() is not None:
            raise AssertionError(f"the service ended: {self.log.read_text()}")
        found = re.search(r"listening for SMTP on 127\.0\.0\.1:(\d+)", self.log.read_text())
        return int(found[1]) if found else None

    def ports(self, role: str = "SMTP") -> list[int]:
        """The ports on 127.0.0.1 that it has opened for a role, in the order of the options."""
        found = re.search(rf"listening for {role} on ([^;\n]*)", self.log.read_text())
        return [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", found[1])] if found else []

    @property
    def maildir(self) -> Path:
        """Where its mail goes if nothing else was said."""
        return self.directory / "Maildir"

    def mails(self) -> list[bytes]:
        """The messages in ``new/``."""
        return [path.read_bytes() for path in sorted((self.maildir / "new").iterdir())]

    def peak_memory(self) -> int:
        """The most memory it has used, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def connect(self) -> socket.socket:
        """Open a connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def kill(self) -> None:
        """End it as a crash would: SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """End it as an operator would: SIGTERM. Its exit status is given."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)
        return self.process.returncode

    def close(self) -> None:
        """End it, and remove its directory."""
        if self.process.poll() is None:
            self.kill()
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)


def run(
    *command: str, input: bytes | None = None, status: int = 0, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """
    Run a program to its end.

    :param status: how it is to end.
    :raises AssertionError: with its output, if it ends otherwise.
    """
    done = subprocess.run(command, input=input, capture_output=True, check=False, timeout=PATIENCE * 2, **options)
    if done.returncode != status:
        raise AssertionError(f"{command[0]} ended with {done.returncode}:\n{done.stdout!r}\n{done.stderr!r}")
    return done


_MASTER_CF = """\
pickup    unix  n - n - 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 1 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
proxymap  unix  - - n - - proxymap
verify    unix  - - n - 1 verify
smtp      unix  - - n - - smtp
lmtp      unix  - - n - - lmtp
error     unix  - - n - - error
retry     unix  - - n - - error
tlsmgr    unix  - - n 1000? 1 tlsmgr
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
smtpd     unix  n - n - - smtpd
"""


class Postfix:
    """
    A Postfix of our own: its own configuration, queue and log; it listens nowhere.

    Mail is handed to it by its ``sendmail``, or by SMTP over the unix socket :attr:`socket`, and sent
    on by its real client.

    :param services: further lines of ``master.cf``.
    :param settings: lines of ``main.cf``.
    :raises SkipTest: if it is not installed, or may not be started by this user.
    """

    def __init__(self, *services: str, **settings: str) -> None:
        need("postfix")
        if os.getuid() != 0:
            raise SkipTest("Postfix can be started by root only")
        self.directory = Path(tempfile.mkdtemp(prefix="postfix-"))
        self.directory.chmod(0o755)
        conf, queue, data = (self.directory / name for name in ("conf", "queue", "data"))
        for path in (conf, queue, data):
            path.mkdir()
        shutil.chown(data, "postfix")
        self.log = self.directory / "log"
        lines = {
            "compatibility_level": "3.6",
            "queue_directory": str(queue),
            "data_directory": str(data),
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "myhostname": "relay.example",
            "mydestination": "",
            "local_recipient_maps": "",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "smtp_host_lookup": "native",
            "alias_maps": "",
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(self.directory.parent),
            "import_environment": "MAIL_CONFIG",
            "message_size_limit": "104857600",
            "mailbox_size_limit": "104857600",
            **settings,
        }
        (conf / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
        (conf / "master.cf").write_text(_MASTER_CF + "".join(f"{line}\n" for line in services))
        # While main.cf looks as if it were being written, Postfix waits before it reads it.
        os.utime(conf / "main.cf", (0, 0))
        self.conf = str(conf)
        self.socket = str(queue / "public" / "smtpd")
        run(need("postfix"), "-c", self.conf, "start")

    def send(self, sender: str, recipients: list[str], message: bytes, *options: str) -> None:
        """Hand a message to ``sendmail``."""
        run(need("sendmail"), "-C", self.conf, "-i", "-f", sender, *options, "--", *recipients, input=message)

    def logged(self, words: str) -> str | None:
        """Find a line with *words* in its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return next((line for line in text.splitlines() if words in line), None)

    def close(self) -> None:
        """End it, and remove its directory."""
        subprocess.run([need("postfix"), "-c", self.conf, "abort"], capture_output=True, timeout=PATIENCE, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)
