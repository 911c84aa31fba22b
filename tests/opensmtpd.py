"""
An OpenSMTPD of our own, for tests: in a root directory of its own, since it has its paths built in.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import SkipTest

from tests.live import PATIENCE, need, run, until

_PASSWD = """\
root:x:0:0::/root:/bin/sh
opensmtpd:x:901:901::/var/lib/opensmtpd/empty:/bin/false
opensmtpq:x:902:902::/var/lib/opensmtpd/empty:/bin/false
nobody:x:65534:65534::/tmp:/bin/sh
"""
_GROUP = "root:x:0:\nopensmtpd:x:901:\nopensmtpq:x:902:\nnogroup:x:65534:\n"
_DIRECTORIES = ("var/spool/smtpd", "var/lib/opensmtpd/empty", "var/run", "etc", "dev", "tmp")


class OpenSMTPD:
    """
    A daemon with a configuration.

    :param configuration: the text of ``smtpd.conf``.
    :raises SkipTest: if it is not installed, or may not be started by this user.
    """

    def __init__(self, configuration: str) -> None:
        program = Path(need("opensmtpd"))
        if os.getuid() != 0:
            raise SkipTest("OpenSMTPD can be started by root only")
        self.directory = Path(tempfile.mkdtemp(prefix="opensmtpd-"))
        self.directory.chmod(0o755)
        for name in _DIRECTORIES:
            (self.directory / name).mkdir(parents=True)
        (self.directory / "var/spool/smtpd").chmod(0o711)
        self._put(program, "usr/sbin/smtpd")
        for name in ("mail.lmtp", "mail.mda"):
            self._put(program.with_name(name), f"usr/libexec/opensmtpd/{name}")
        self._put(Path("/bin/sh"), "bin/sh")
        for name in ("null", "urandom"):
            (self.directory / "dev" / name).touch()
        (self.directory / "dev/null").chmod(0o666)
        files = {"passwd": _PASSWD, "group": _GROUP, "hosts": "127.0.0.1 localhost\n", "smtpd.conf": configuration}
        for name, text in files.items():
            (self.directory / "etc" / name).write_text(text)
        self.log = self.directory / "log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [need("chroot"), str(self.directory), "/usr/sbin/smtpd", "-d", "-v"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        until(self._ready, "OpenSMTPD is ready")

    def _put(self, program: Path, place: str) -> None:
        """Copy a program into the root directory, with what it is linked to."""
        libraries = re.findall(r"(/\S+) \(0x", run(need("ldd"), str(program)).stdout.decode())
        for source, target in [(str(program), place), *((each, each[1:]) for each in libraries)]:
            path = self.directory / target
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, path)

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"OpenSMTPD ended: {self.log.read_text()}")
        return "setup done" in self.log.read_text(errors="replace")

    def logged(self, words: str) -> str | None:
        """Find a line with *words* in its log."""
        return next((line for line in self.log.read_text(errors="replace").splitlines() if words in line), None)

    def close(self) -> None:
        """End it, and remove its directory."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)
