"""
What ``twistd`` starts: the mail service, and its words for the person who started it.

At the start it logs where it listens and where mail goes, and a command to try. Whatever keeps it
from starting ends the process with one sentence and exit code 1: on stderr in the foreground, and
for a daemon on the terminal by way of twistd, and in the log.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Final

import idna
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from smtpsvc.interfaces import IExtension
from smtpsvc.listeners import Listener, ListenError, Place, places_of
from smtpsvc.logs import SummaryLog
from smtpsvc.plugins import describe_error, one_line
from smtpsvc.server.shared import Shared
from smtpsvc.service import Binding, MailService
from smtpsvc.settings import Role, Settings
from smtpsvc.tls import CertificateError, CertificateStore
from smtpsvc.watching import Watching

#: What twistd's pipe from a daemon to the terminal takes of a message.
PIPE: Final = 98

log = Logger(namespace="smtpsvc")

_ROLES: Final = {Role.SMTP: "SMTP", Role.SUBMISSION: "submission", Role.LMTP: "LMTP"}


class StartError(Exception):
    """The service cannot start; ``str()`` is a sentence for the person who started it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a command line says, read and checked."""

    settings: Settings
    #: What ``--backend`` says.
    backend_name: str
    #: The backend, with the policies in front of it; not started.
    backend: Any
    listeners: Sequence[Listener]
    domains: Sequence[str] = ()
    extensions: Sequence[IExtension] | None = None
    #: What TLS begins with.
    certificates: CertificateStore | None = None
    #: Logs a line for each message.
    summary: SummaryLog | None = None
    #: Metrics, and the log as JSON.
    watching: Watching = field(default_factory=Watching)
    #: The processes that serve.
    workers: int = 1
    #: The service in one process of several: what it counts together with the others.
    shared: Shared | None = None


class LaunchedService(MailService):
    """
    A mail service that says what it does, for ``twistd`` and ``twist``.

    :param plan: what was asked for.
    :raises ValueError: with a sentence, if its parts do not fit together.
    """

    def __init__(self, plan: Plan) -> None:
        monitors = plan.watching.monitors if plan.summary is None else [plan.summary, *plan.watching.monitors]
        super().__init__(
            plan.backend,
            plan.settings,
            extensions=plan.extensions,
            monitors=monitors,
            tls=plan.certificates,
            shared=plan.shared,
        )
        self.plan = plan
        self._hangup: Hangup | None = None
        self._interrupts: Interrupts | None = None
        for listener in plan.listeners:
            self.listen(listener, listener.role, implicit_tls=listener.implicit_tls)
        self._serve_metrics()

    def _serve_metrics(self) -> None:
        self.plan.watching.attach(self)

    def privilegedStartService(self) -> None:
        """
        Open the ports.

        :raises StartError: if one cannot be opened; the process then ends with its sentence.
        """
        with one_sentence():
            self.plan.watching.begin()
            super().privilegedStartService()

    def startService(self) -> None:
        """
        Start the backend, and log what runs as soon as the reactor does.

        :raises StartError: if it cannot start; the process then ends with its sentence.
        """
        with one_sentence():
            self.plan.watching.begin()
            super().startService()
        from twisted.internet import reactor

        self._interrupts = Interrupts(reactor, self.hurry)
        # A terminal that is closed sends SIGHUP too, and means the end.
        if (self.plan.certificates is not None or self.plan.watching.json_log is not None) and not os.isatty(0):
            self._hangup = Hangup(reactor, self.reload)
        # Last: whoever reads that it listens may send a signal, which would kill a process that does not heed it yet.
        reactor.callWhenRunning(self._announce)

    def _announce(self) -> None:
        if not self.running:
            return
        for line in self.start_lines():
            log.info("{line}", line=line)
        for line in self.warnings():
            log.warn("{line}", line=line)

    def stopService(self) -> Deferred[None]:
        """
        End; the lines of the last messages are logged.

        :returns: a Deferred that fires when all is closed.
        """
        for signals in (self._hangup, self._interrupts):
            if signals is not None:
                signals.stop()
        return super().stopService().addBoth(self._flush)

    def _flush(self, result: Any) -> Any:
        if self.plan.summary is not None:
            self.plan.summary.flush()
        self.plan.watching.end()
        return result

    def reload(self) -> None:
        """Read anew what SIGHUP reads anew."""
        self.plan.watching.reload()
        if self.plan.certificates is not None:
            self.plan.certificates.reload()

    def start_lines(self) -> list[str]:
        """Say where the service listens and where mail goes, and give a command to try."""
        spoken = []
        for role, name in _ROLES.items():
            listening = [_describe(binding) for binding in self._open_bindings() if binding.role is role]
            if listening:
                spoken.append(f"listening for {name} on {', '.join(listening)}")
        destination = getattr(self.backend, "destination", None) or f"the backend {self.plan.backend_name}"
        lines = [f"{'; '.join(spoken) or 'not listening yet'}; mail goes to {destination}"]
        command = self._command()
        if command:
            lines.append(f"to try it: {command}")
        return [*lines, *self.plan.watching.start_lines()]

    def warnings(self) -> list[str]:
        """Say what may not be meant."""
        if self.plan.domains:
            return []
        return [
            f"{binding.endpoint.name} is open to other machines and no --domain is given: mail for any domain is taken"
            for binding in self._open_bindings()
            if self._takes_strangers(binding) and not all(place.local for place in _places(binding))
        ]

    def _takes_strangers(self, binding: Binding) -> bool:
        # Who logs in sends mail to any domain.
        return not (binding.role is Role.SUBMISSION or (binding.role is Role.SMTP and self.plan.settings.require_auth))

    def _open_bindings(self) -> list[Binding]:
        return [binding for binding in self.bindings if binding.port is not None]

    def _command(self) -> str:
        """Write a shell command that sends a mail by curl; "" if curl could not reach any listener."""
        recipient = f"you@{self.plan.domains[0] if self.plan.domains else 'example.com'}"
        settings = self.plan.settings
        secure = "-k --ssl-reqd " if settings.require_tls else ""
        for binding in self._open_bindings():
            if binding.endpoint.plain and binding.role is Role.SMTP and not settings.require_auth:
                target = _curl_target(_places(binding)[0])
                addresses = f"--mail-from me@example.com --mail-rcpt {shlex.quote(recipient)}"
                return f"printf 'Subject: hello\\n\\nhi\\n' | curl -sS {secure}--crlf -T - {target} {addresses}"
        return ""


class Hangup:
    """
    Does something at SIGHUP, once the reactor runs.

    :param act: is called by the reactor, not in the signal handler.
    """

    def __init__(self, reactor: Any, act: Callable[[], object]) -> None:
        self._reactor = reactor
        self._act: Callable[[], object] | None = act
        self._before: Any = None
        reactor.callWhenRunning(self._begin)

    def stop(self) -> None:
        """Let SIGHUP do what it did before."""
        before, self._before, self._act = self._before, None, None
        if before is not None:
            signal.signal(signal.SIGHUP, before)

    def _begin(self) -> None:
        act = self._act
        if act is None:
            return
        try:
            self._before = signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(act))
        except (AttributeError, ValueError):
            # There is no such signal on this system, or the reactor is not in the main thread.
            log.debug("SIGHUP is not heeded")


class Interrupts:
    """
    Lets a second SIGTERM or SIGINT hurry the end that the first has begun, once the reactor runs.

    The first is for whoever had it before, mostly the reactor, which stops. So is none behind it: the
    reactor would complain that it is stopping already. After so many that each step was hurried, one
    more kills the process as if nobody handled it.

    :param hurry: is called by the reactor, not in the signal handler.
    """

    #: Signals that do something else than to kill.
    PATIENCE: Final = 4

    def __init__(self, reactor: Any, hurry: Callable[[], object]) -> None:
        self._reactor = reactor
        self._hurry = hurry
        self._before: dict[int, Any] = {}
        self._count = 0
        self._stopped = False
        self._ending = reactor.addSystemEventTrigger("before", "shutdown", self._end)
        reactor.callWhenRunning(self._begin)

    def stop(self) -> None:
        """Let the signals do what they did before, unless the process is about to end."""
        self._stopped = True
        if self._count:
            return
        self._reactor.removeSystemEventTrigger(self._ending)
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def _begin(self) -> None:
        if self._stopped:
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if not callable(before) or before is signal.default_int_handler:
                # The reactor was told not to handle it, or it is ignored (nohup).
                continue
            try:
                signal.signal(number, self._take)
            except ValueError:
                log.debug("A second signal does not hurry: the reactor is not in the main thread")
                return
            self._before[number] = before

    def _end(self) -> None:
        """The reactor stops, for whatever reason."""
        self._count = max(self._count, 1)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 1:
            self._before[number](number, frame)
            return
        if self._count == self.PATIENCE:
            for one in self._before:
                signal.signal(one, signal.SIG_DFL)
        self._reactor.callFromThread(self._hurry)


def _places(binding: Binding) -> tuple[Place, ...]:
    return places_of(binding.port) if binding.port is not None else ()


def _describe(binding: Binding) -> str:
    places = _places(binding)
    where = " and ".join(map(str, places))
    if binding.endpoint.proxied:
        where += " behind a proxy"
    if binding.implicit_tls:
        where += " with implicit TLS"
    if not binding.endpoint.loopback:
        return where
    # The prefixes stay.
    option = binding.endpoint.name.rstrip("0123456789")
    return f"{where} (only this machine can connect; for all: {option}tcp:{places[0].port})"


def _curl_target(place: Place) -> str:
    if place.path:
        return f"--unix-socket {shlex.quote(os.path.abspath(place.path))} smtp://localhost"
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return shlex.quote(f"smtp://{Place(here.get(place.host, place.host), place.port)}")


def load_late_modules() -> None:
    """
    Load what Python imports on first use only.

    A process that has changed its root directory, or given up the right to read its own files,
    could not. It takes a few milliseconds.
    """
    name = "b\u00fccher.example"
    name.encode("idna")  # the sockets' codec
    idna.encode(name, uts46=True)


@contextmanager
def one_sentence() -> Iterator[None]:
    """
    Turn what goes wrong at the start into a :class:`StartError` that shows no traceback.

    :raises StartError: for any exception inside; when the process ends with it, Python prints its
        sentence alone.
    """
    try:
        yield
    except (ListenError, CertificateError) as error:
        sentence = str(error)
    except (ValueError, OSError) as error:
        sentence = f"--backend: {one_line(error)}"
    except Exception as error:
        sentence = f"--backend: it did not start: {describe_error(error)}"
    else:
        return
    problem = StartError(sentence)
    # The last line of the formatted exception is what twistd hands from a daemon to the terminal;
    # a note is a line of its own, without the exception's name.
    problem.add_note(textwrap.shorten(sentence, PIPE, placeholder=" ..."))
    sys.excepthook = _show(sys.excepthook)
    raise problem


def _show(fallback: Any) -> Any:
    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, StartError):
            say(str(error))
        else:
            fallback(kind, error, trace)

    return show


def say(sentence: str) -> None:
    """Tell the person at the terminal what is wrong; where a daemon has none, tell the log."""
    terminal = sys.__stderr__
    try:
        if terminal is None or os.path.samestat(os.fstat(terminal.fileno()), os.stat(os.devnull)):
            log.critical("{sentence}", sentence=sentence)
        else:
            print(f"smtpsvc: {sentence}", file=terminal, flush=True)
    except (OSError, ValueError):  # stderr is closed, or there is no /dev below a chroot
        log.critical("{sentence}", sentence=sentence)
