"""
Filters for tests: one in memory whose every octet is known, and real ones.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.live import PATIENCE, need, run, until


class Link(StringTransport):
    """A connection to a program in memory: what we write goes to it at once, and what it answers comes back."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        super().__init__()
        self.answer = answer
        self.protocol: Any = None
        self.lost = False
        #: Answers wait here while we read nothing.
        self._held: list[bytes] = []
        self._busy = False

    def write(self, data: bytes) -> None:
        """Hand octets to the program."""
        super().write(data)
        answer = self.answer(data)
        if answer:
            self.deliver(answer)

    def deliver(self, data: bytes) -> None:
        """Have the program say something; never while we are still writing."""
        self._held.append(data)
        if self._busy:
            return
        self._busy = True
        while self._held:
            self.protocol.dataReceived(self._held.pop(0))
        self._busy = False

    def loseConnection(self) -> None:
        """We end the connection."""
        self.end()

    def abortConnection(self) -> None:
        """We break it off."""
        self.aborted = True
        self.end()

    def end(self) -> None:
        """The connection ends."""
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(ConnectionAbortedError("ended")))


@implementer(IStreamClientEndpoint)
class Program:
    """
    A program in memory that can be connected to.

    :param talk: makes for each connection what answers to octets.
    """

    def __init__(self, talk: Callable[[], Callable[[bytes], bytes | None]]) -> None:
        self.talk = talk
        self.links: list[Link] = []
        #: How often somebody has tried to connect.
        self.tries = 0
        #: None while it can be had; else what a try gives.
        self.down: Callable[[], Deferred[Any]] | None = None

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect to it."""
        self.tries += 1
        if self.down is not None:
            return self.down()
        protocol = factory.buildProtocol(None)
        link = Link(self.talk())
        link.protocol = protocol
        self.links.append(link)
        protocol.makeConnection(link)
        return succeed(protocol)

    def refuse(self) -> None:
        """Be gone."""
        self.down = lambda: fail(Refused())


def frames(octets: bytes) -> list[bytes]:
    """Take the messages of the milter protocol apart: each a letter and its content."""
    found = []
    while octets:
        size = int.from_bytes(octets[:4], "big")
        found.append(octets[4 : 4 + size])
        octets = octets[4 + size :]
    return found


def frame(content: bytes) -> bytes:
    """Put a length before a message."""
    return len(content).to_bytes(4, "big") + content


def offer(actions: int = 0x1FF, options: int = 0, version: int = 6, macros: bytes = b"") -> bytes:
    """Answer to our offer."""
    return b"O" + b"".join(number.to_bytes(4, "big") for number in (version, actions, options)) + macros


class Filter(Program):
    """
    A filter in memory.

    :param answers: by letter of our command, in order; the last one stays. An answer is one message, a list of them,
        or None for silence. Macros, abort and quit have none. The rest is answered with *continue*.
    """

    def __init__(self, answers: dict[str, list[Any]] | None = None, options: bytes = offer()) -> None:
        super().__init__(self._talk)
        self.answers = answers or {}
        self.options = options
        #: All that was said to it, without macros.
        self.heard: list[bytes] = []
        self.macros: list[bytes] = []

    def _talk(self) -> Callable[[bytes], bytes | None]:
        return lambda data: b"".join(map(frame, (each for one in frames(data) for each in self._answer(one))))

    def _answer(self, message: bytes) -> list[bytes]:
        letter = message[:1].decode()
        if letter == "D":
            self.macros.append(message)
            return []
        self.heard.append(message)
        if letter == "O":
            return [self.options] if self.options else []
        if letter in "AQK":
            return []
        planned = self.answers.get(letter)
        answer = b"c" if not planned else planned.pop(0) if len(planned) > 1 else planned[0]
        return [] if answer is None else answer if isinstance(answer, list) else [answer]

    @property
    def letters(self) -> str:
        """The commands that it has heard."""
        return "".join(each[:1].decode() for each in self.heard)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RealFilter:
    """A program that listens on a port of 127.0.0.1, in a directory of its own, and is ended by its pid."""

    program: str

    def __init__(self) -> None:
        program = need(self.program)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.program}-"))
        self.directory.chmod(0o755)
        self.port = free_port()
        command = self.prepare(program)
        self.log = self.directory / "output"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        until(self._listening, f"{self.program} listens")

    def prepare(self, program: str) -> list[str]:
        """Write its configuration, and give its command line."""
        raise NotImplementedError

    def _listening(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"{self.program} ended: {self.log.read_text(errors='replace')}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self) -> None:
        """End it, and remove its directory."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class OpenDKIM(RealFilter):
    """OpenDKIM, which signs mail from x.example of clients that have logged in, and verifies that of others."""

    program = "opendkim"

    def prepare(self, program: str) -> list[str]:
        """Make a key, and a configuration that has its public part instead of DNS."""
        key, public = self.directory / "key", self.directory / "public"
        run(need("openssl"), "genrsa", "-out", str(key), "1024")
        made = run(need("openssl"), "rsa", "-in", str(key), "-pubout").stdout.decode().split("-----")[2]
        public.write_text(f"s._domainkey.x.example v=DKIM1; k=rsa; p={''.join(made.split())}\n")
        (self.directory / "nobody").write_text("192.0.2.77\n")
        (self.directory / "conf").write_text(
            f"""Syslog no
Mode sv
Domain x.example
Selector s
KeyFile {key}
Socket inet:{self.port}@127.0.0.1
InternalHosts {self.directory}/nobody
TestPublicKeys {public}
RequireSafeKeys no
Background no
AuthservID mx.example
"""
        )
        return [program, "-f", "-x", str(self.directory / "conf")]


class Rspamd(RealFilter):
    """rspamd, whose proxy speaks the milter protocol and has a rule or two, and asks no DNS."""

    program = "rspamd"

    def prepare(self, program: str) -> list[str]:
        """Write a configuration with one worker that does it all."""
        directory = self.directory
        rules = directory / "rules.lua"
        rules.write_text(_RULES)
        (directory / "conf").write_text(_RSPAMD.format(directory=directory, port=self.port, rules=rules))
        command = [program, "-f", "-c", str(directory / "conf")]
        for name in ("DBDIR", "RUNDIR", "LOGDIR"):
            command += ["--var", f"{name}={directory}"]
        if os.getuid() == 0:
            shutil.chown(directory, "_rspamd")
            command += ["-u", "_rspamd", "-g", "_rspamd"]
        return command


_RSPAMD = """\
options {{
  pidfile = "{directory}/pid";
  tempdir = "{directory}";
  filters = "";
  disable_hyperscan = true;
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 0; }}
  local_addrs = [];
  control_socket = "{directory}/control mode=0600";
  history_file = "{directory}/history";
  max_lua_urls = 10;
}}
logging {{ type = "console"; level = "notice"; }}
worker "rspamd_proxy" {{
  bind_socket = "127.0.0.1:{port}";
  milter = yes;
  count = 1;
  timeout = 60s;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
metric "default" {{
  actions {{ reject = 15; "add header" = 6; greylist = 4; }}
  unknown_weight = 1.0;
}}
lua = "{rules}";
"""

_RULES = """\
rspamd_config:register_symbol{
  name = 'BAD_WORD',
  score = 20.0,
  callback = function(task)
    return task:get_subject() == 'bad'
  end,
}
rspamd_config:register_symbol{
  name = 'ODD_WORD',
  score = 7.0,
  callback = function(task)
    return task:get_subject() == 'odd'
  end,
}
rspamd_config:register_symbol{
  name = 'TO_WHOM',
  type = 'idempotent',
  callback = function(task)
    local people = {}
    for _, each in ipairs(task:get_recipients('smtp')) do
      table.insert(people, each.addr)
    end
    task:set_milter_reply({
      add_headers = {['X-Seen'] = string.format('%s; %s; %s; %s', task:get_from_ip(), task:get_helo(),
        task:get_from('smtp')[1].addr, table.concat(people, ' '))},
      remove_headers = {['X-Secret'] = 0},
    })
  end,
}
"""
