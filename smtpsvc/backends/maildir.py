"""
Keep each message as a file in a Maildir.

The argument is the directory; without one it is ``./Maildir``. It is made if it is missing. A
message is on the disk, and so is its entry in ``new/``, before its client is told 250; messages
that come at the same time share the wait for the disk. In front of each stand ``Return-Path:`` and
one ``Delivered-To:`` for each recipient; a message to several recipients is one file. What a policy
has put into quarantine is kept in the folder ``.Quarantine`` of the Maildir, with the reason in
``X-Quarantine:``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.backends.commit import Staged, System, TmpFile
from smtpsvc.backends.spool import Budget, IThreads, Spool, Threads, refusal
from smtpsvc.backends.store import Store, check_directory
from smtpsvc.current import current_reactor
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown
from smtpsvc.grammar.trace import delivered_to, return_path
from smtpsvc.interfaces import IConnection, IStorage
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.settings import KIB
from smtpsvc.values import Envelope, Peer, Quarantine

#: Messages up to this size stay in memory until they are committed; larger ones grow in ``tmp/``.
SPOOL_AT: Final = 256 * KIB

#: The folder for mail in quarantine, in the form of Maildir++ that IMAP servers know.
APART: Final = ".Quarantine"
#: Characters of the reason that stand in the message.
REASON: Final = 500

_log = Logger()


class MaildirDelivery(Delivery):
    """One message on its way into a Maildir."""

    __slots__ = ("_file", "_id", "_spool", "_store")

    def __init__(self, store: Store, envelope: Envelope, before: bytes = b"") -> None:
        """
        :param before: header fields, which stand behind Return-Path.
        """
        self._store = store
        self._id = envelope.id
        self._file = TmpFile(store.directory, store.names.make(), store.system)
        fields = [return_path(envelope.sender), before]
        fields += [delivered_to(recipient.address) for recipient in envelope.recipients]
        self._spool = Spool(
            self._file.write, store.writers.defer, store.budget, SPOOL_AT, envelope.id, b"".join(fields)
        )

    def write(self, content: bytes) -> Deferred[None] | None:
        """
        Take the next piece; once the message is large, it is written to its file.

        :returns: a Deferred when the disk is behind the client.
        :raises TemporaryError: 452 4.3.1 if there is no space, 451 4.3.0 for other errors.
        """
        return self._spool.write(content)

    def finish(self) -> Deferred[Reply]:
        """
        Commit the message.

        :returns: fires once it is on the disk, or fails with the refusal. To cancel it takes back the
            answer only: the commit goes on.
        """
        answer: Deferred[Reply] = Deferred()
        self._store.begin()
        if not self._spool.spooled:
            self._submit(answer, self._spool.take())
            return answer
        # Not chained to the answer, so that cancelling that does not reach what goes on here.
        sealed = self._spool.end().addCallback(lambda _: self._store.writers.defer(self._file.seal))
        sealed.addCallbacks(lambda _: self._submit(answer, None), self._discard, errbackArgs=(answer,))
        return answer

    def abort(self, reason: Failure) -> Deferred[None] | None:
        """
        Forget the message and remove its file.

        :returns: None, or a Deferred that fires when the file is gone.
        """
        idle = self._spool.drop()
        if not self._spool.spooled:
            return None
        gone: Deferred[None] = Deferred()

        def done(result: object) -> None:
            if isinstance(result, Failure):
                _log.failure("The file of message {id} could not be removed", result, id=self._id)
            self._store.end()
            gone.callback(None)

        self._store.begin()
        idle.addCallback(lambda _: self._store.writers.defer(self._file.discard)).addBoth(done)
        return gone

    def _submit(self, answer: Deferred[Reply], content: bytearray | None) -> None:
        staged = Staged(self._file, content, lambda staged: self._conclude(answer, staged.error))
        self._store.committer.submit(staged)

    def _discard(self, failure: Failure, answer: Deferred[Reply]) -> None:
        """Refuse a large message once its file is gone."""
        error = failure.value
        assert isinstance(error, Exception), "threads pass on no others"
        removed = self._store.writers.defer(self._file.discard)
        removed.addBoth(lambda _: self._conclude(answer, error))

    def _conclude(self, answer: Deferred[Reply], error: Exception | None) -> None:
        self._spool.release()
        if error is not None:
            answer.errback(refusal(error, self._id))
        else:
            if answer.called:
                _log.info("Message {id} was kept after its client had stopped waiting", id=self._id)
            answer.callback(Reply(250, f"OK, kept as {self._id}", "2.0.0"))
        self._store.end()


class MaildirSession(Session):
    """Takes every message; one session serves all connections."""

    __slots__ = ("_backend",)

    def __init__(self, backend: MaildirBackend) -> None:
        self._backend = backend

    def data(self, envelope: Envelope) -> MaildirDelivery | Reply | Deferred[MaildirDelivery]:
        """
        Begin a message. Waits for the disk if it is the first one in quarantine.

        :returns: 421 once the backend is stopped.
        :raises RuntimeError: if it was never started.
        """
        backend = self._backend
        if backend.store is not None:
            quarantine = envelope.found(Quarantine)
            if quarantine is None:
                return MaildirDelivery(backend.store, envelope)
            reason = shown(quarantine.reason.encode("ascii", "backslashreplace"))[:REASON]
            _log.info("Message {id} goes into quarantine: {reason}", id=envelope.id, reason=reason)
            fields = b"X-Quarantine: %b\r\n" % reason.encode()
            return backend.open_apart(envelope.id).addCallback(MaildirDelivery, envelope, fields)
        if not backend.started:
            raise RuntimeError("The Maildir is not open: startService() of its backend was not called")
        return replies.SHUTTING_DOWN


@implementer(IStorage)
class MaildirBackend(Backend, Service):
    """
    Keeps mail in a Maildir. It is a service: nothing is opened before ``startService``.

    :param directory: made if it is missing; a relative path is taken from the working directory at ``startService``.
    :param reactor: its ``callFromThread`` brings the answers; None for the running one.
    :param system: the system calls.
    :param threads: makes threads.
    :param memory: how much content may be in memory, of all messages together, before small messages too
        are written as they come.
    """

    def __init__(
        self,
        directory: str,
        reactor: Any = None,
        *,
        system: System | None = None,
        threads: Callable[[int, IReactorFromThreads, str], IThreads] = Threads,
        memory: int | None = None,
    ) -> None:
        #: As given; absolute once the service was started.
        self.directory = directory
        #: True from the first ``startService`` on.
        self.started = False
        #: What deliveries use while the service runs, else None.
        self.store: Store | None = None
        self._reactor = reactor
        self._system = System() if system is None else system
        self._threads = threads
        self._budget = Budget() if memory is None else Budget(memory)
        self._session = MaildirSession(self)
        self._apart: Store | None = None

    def __repr__(self) -> str:
        return f"<MaildirBackend {self.directory!r}>"

    @property
    def destination(self) -> str:
        """Where mail goes, for people."""
        return self.directory

    def open_session(self, peer: Peer, connection: IConnection) -> MaildirSession:
        """Give the session that serves all."""
        return self._session

    def free_space(self) -> int | None:
        """
        Tell how much room the file system has for this user.

        :returns: in bytes; 0 if it has no room for another file's name; None if it is not known.
        """
        if self.store is None:
            return None
        try:
            # In this thread: it takes 1 µs. A file system that hangs here would let no commit through either.
            status = self._system.statvfs(self.store.directory)
        except OSError:
            return None
        if status.f_files and not status.f_favail:
            return 0
        return status.f_bavail * status.f_frsize

    def check(self) -> None:
        """
        Find out whether mail could be kept there, and change nothing; for ``--check``.

        :raises ValueError: with the sentence of :meth:`startService`.
        """
        directory = os.path.abspath(self.directory)
        for name in ("tmp", "new", "cur"):
            path = os.path.join(directory, name)
            while not os.path.lexists(path):
                path = os.path.dirname(path)
            if not os.path.isdir(path):
                raise _unkept(directory, f"{path} is no directory")
            if not os.access(path, os.W_OK | os.X_OK):
                raise _unkept(directory, f"{path} cannot be written to")
            if not _keeps_files(path):
                raise _unkept(directory, f"the file system of {path} keeps no files")

    def startService(self) -> None:
        """
        Make the Maildir if it is missing, check that mail can be kept there, and clean ``tmp/``.

        :raises ValueError: with a sentence, if mail cannot be kept there.
        """
        directory = os.path.abspath(self.directory)
        try:
            check_directory(directory, self._system)
        except OSError as error:
            raise _unkept(directory, error.strerror) from error
        self.directory = directory
        self.store = self._open(directory)
        self.started = True
        super().startService()  # type: ignore[no-untyped-call]

    def open_apart(self, message: str) -> Deferred[Store]:
        """
        Open the folder for mail in quarantine, which is made if it is missing.

        :param message: the id of the message that needs it, for the log.
        :returns: fails with a :class:`~smtpsvc.TemporaryError` if it cannot be made.
        """
        store = self.store
        assert store is not None
        if self._apart is not None:
            return succeed(self._apart)
        directory = os.path.join(self.directory, APART)

        def check() -> None:
            try:
                check_directory(directory, self._system)
            except OSError as error:
                raise refusal(error, message) from error

        def done(result: None) -> Store:
            if self._apart is None:
                self._apart = self._open(directory)
            return self._apart

        store.begin()

        def end(result: Any) -> Any:
            store.end()
            return result

        return store.writers.defer(check).addCallback(done).addBoth(end)

    def _open(self, directory: str) -> Store:
        reactor = self._reactor or current_reactor()
        store = Store(directory, reactor, self._system, self._threads, self._budget)
        store.clean(time.time())
        return store

    def stopService(self) -> Deferred[None]:
        """
        Take no further mail.

        :returns: fires when all commits under way are answered and the threads have ended.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        stores, self.store, self._apart = (self.store, self._apart), None, None
        return gatherResults([store.stop() for store in stores if store is not None]).addCallback(lambda _: None)


def _keeps_files(directory: str) -> bool:
    """Say no for /proc and the like, where even root can make nothing: they have no size, and no nameless files."""
    try:
        if not os.statvfs(directory).f_blocks:
            os.close(os.open(directory, getattr(os, "O_TMPFILE", 0) | os.O_RDWR, 0o600))
    except OSError:
        return False
    return True


def _unkept(directory: str, reason: str | None) -> ValueError:
    return ValueError(
        f"maildir: mail cannot be kept in {directory} ({reason}); "
        "name a directory that this user can make or write to"
    )


def make(argument: str, reactor: IReactorFromThreads) -> MaildirBackend:
    """
    Make the backend of ``--backend maildir:DIR``.

    :param argument: the directory; empty for ``./Maildir``.
    :raises ValueError: with a sentence, if it cannot be a directory's name.
    """
    if "\0" in argument:
        raise ValueError("maildir: a directory's name has no NUL; write one such as maildir:./Maildir")
    return MaildirBackend(argument or "./Maildir", reactor)
