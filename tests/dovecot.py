"""
A Dovecot of our own that takes mail by LMTP over a unix socket.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import SkipTest

from tests.live import PATIENCE, need, until

_CONFIGURATION = """\
base_dir = {home}/run
state_dir = {home}/state
protocols = lmtp
log_path = {home}/log
ssl = no
mail_location = maildir:~/Maildir
first_valid_uid = 1
postmaster_address = postmaster@example.com
hostname = dovecot.example
auth_username_format = %Lu
userdb {{
  driver = passwd-file
  args = {home}/users
}}
passdb {{
  driver = passwd-file
  args = {home}/users
}}
service lmtp {{
  unix_listener {home}/lmtp {{
    mode = 0666
  }}
}}
"""


class Dovecot:
    """
    A Dovecot with its own configuration, users and log.

    :param users: addresses; of those whose name begins with ``broken`` the mail cannot be kept.
    :raises SkipTest: if it is not installed, or may not be started by this user.
    """

    def __init__(self, *users: str) -> None:
        dovecot = need("dovecot")
        if os.getuid() != 0 or not Path("/usr/lib/dovecot/lmtp").exists():
            raise SkipTest("Dovecot with LMTP can be started by root only, with its package dovecot-lmtpd")
        self.directory = Path(tempfile.mkdtemp(prefix="dovecot-"))
        self.directory.chmod(0o755)
        nobody = pwd.getpwnam("nobody")
        lines = []
        for user in users:
            home = self.directory / "homes" / user
            home.mkdir(parents=True)
            os.chown(home, nobody.pw_uid, nobody.pw_gid)
            if user.startswith("broken"):
                (home / "Maildir").write_text("in the way")
            lines.append(f"{user}:{{plain}}x:{nobody.pw_uid}:{nobody.pw_gid}::{home}::\n")
        (self.directory / "users").write_text("".join(lines))
        conf = self.directory / "conf"
        conf.write_text(_CONFIGURATION.format(home=self.directory))
        self.socket = self.directory / "lmtp"
        self.process = subprocess.Popen([dovecot, "-F", "-c", str(conf)], stdin=subprocess.DEVNULL)
        try:
            until(self.socket.exists, "Dovecot listens")
        except AssertionError:
            self.close()
            raise

    def mails(self, user: str) -> list[bytes]:
        """The messages in a user's mailbox."""
        return [path.read_bytes() for path in sorted((self.directory / "homes" / user / "Maildir" / "new").glob("*"))]

    def close(self) -> None:
        """End it, and remove its directory."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)
