"""
Starts processes by fork, for a parent that can start no program any more.

Where ``twistd`` has given up its rights or changed its root directory, Python's own files may be out of
reach, and what was read with more rights could not be read again. So before the reactor runs a helper
is forked that never runs one: it has all modules and files that the parent has, and does nothing but
fork workers when it is told to. It goes when the parent goes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.process import ProcessReader, ProcessWriter
from twisted.python.failure import Failure
from zope.interface import implementer

#: Descriptors that one message may carry; the kernel's limit is 253.
MOST: Final = 253
#: Seconds that a fork may take.
_PATIENCE: Final = 10.0

_NEWS: Final = struct.Struct("!cii")
_STARTED: Final = b"s"
_ENDED: Final = b"e"
_FAILED: Final = b"f"

#: What a process does: is given its descriptors by the numbers that they were asked for.
Work = Callable[[Mapping[int, int]], object]


@implementer(IReadDescriptor)
class Forker:
    """
    Stands in for a reactor where processes are started; all else is the reactor's own.

    :param reactor: is not running yet.
    :param work: what each process does; the process ends when it returns.
    :param forget: closes what the helper and the processes are not to keep open.
    :param lost: is called if the helper ends by itself: no more processes can be started then.
    """

    def __init__(
        self, reactor: Any, work: Work, *, forget: Callable[[], object], lost: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._lost = lost
        self._processes: dict[int, ForkedProcess] = {}
        self._ended: list[tuple[int, int]] = []
        # Forks that took too long, and are still to be heard of; nobody has the pipes of these processes, so they end.
        self._late = 0
        self._gone = False
        self._socket, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        #: The helper's process number.
        self.pid = os.fork()
        if not self.pid:
            try:
                self._socket.close()
                forget()
                _help(control, work, reactor)
            except BaseException:
                _show_traceback()
            finally:
                os._exit(1)
        control.close()
        self._socket.settimeout(_PATIENCE)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def watch(self) -> None:
        """Begin to hear of processes that end; the reactor runs."""
        self._reactor.addReader(self)

    def close(self) -> None:
        """Have the helper end; the processes go on, and nobody hears of their end."""
        if self._gone:
            return
        self._gone = True
        self._reactor.removeReader(self)
        self._socket.close()
        os.waitpid(self.pid, 0)

    def spawnProcess(
        self,
        processProtocol: Any,
        executable: str,
        args: Any = (),
        env: Any = None,
        path: Any = None,
        childFDs: Mapping[int, int | str] | None = None,
    ) -> ForkedProcess:
        """
        Start a process, as a reactor does; the program is of no account.

        :raises OSError: if the system gives none.
        """
        theirs: dict[int, int] = {}
        ours: dict[int, tuple[str, int]] = {}
        opened = []
        try:
            for number, target in (childFDs or {}).items():
                if isinstance(target, int):
                    theirs[number] = target
                    continue
                reading, writing = os.pipe()
                opened += [reading, writing]
                mine, theirs[number] = (reading, writing) if target == "r" else (writing, reading)
                ours[number] = target, mine
            pid = self._ask(theirs)
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        for descriptor in set(opened) - {descriptor for _, descriptor in ours.values()}:
            os.close(descriptor)
        process = self._processes[pid] = ForkedProcess(self._reactor, processProtocol, pid, ours)
        for ended, status in self._take_ended():
            self._tell(ended, status)
        return process

    def _ask(self, descriptors: Mapping[int, int]) -> int:
        if self._gone:
            raise OSError(0, "the process that starts them has ended")
        if len(descriptors) > MOST:
            raise OSError(0, f"{len(descriptors)} descriptors are too many to be handed over")
        socket.send_fds(self._socket, [json.dumps([*descriptors]).encode()], [*descriptors.values()])
        while True:
            try:
                kind, pid, status = self._hear()
            except TimeoutError as error:
                self._late += 1
                raise OSError(0, f"the process that starts them has not answered for {_PATIENCE:g} s") from error
            if kind == _ENDED:
                self._ended.append((pid, status))
            elif self._late:
                self._late -= 1
            elif kind == _STARTED:
                return pid
            else:
                raise OSError(status, os.strerror(status))

    def _hear(self) -> tuple[bytes, int, int]:
        news = self._socket.recv(_NEWS.size)
        if not news:
            raise OSError(0, "the process that starts them has ended")
        kind, pid, status = _NEWS.unpack(news)
        return kind, pid, status

    def _take_ended(self) -> list[tuple[int, int]]:
        ended, self._ended = self._ended, []
        return ended

    def _tell(self, pid: int, status: int) -> None:
        process = self._processes.pop(pid, None)
        if process is not None:
            process.exited(status)

    # For the reactor.

    def fileno(self) -> int:
        """The descriptor that tells of the helper; -1 when closed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Name it in the log."""
        return "smtpsvc"

    def doRead(self) -> Any:
        """Hear of a process that has ended."""
        try:
            kind, pid, status = self._hear()
        except OSError as error:
            return error
        if kind == _ENDED:
            self._tell(pid, status)
        else:
            self._late -= 1
        return None

    def connectionLost(self, reason: Failure) -> None:
        """The helper has ended, or the reactor has."""
        if self._gone:
            return
        self._gone = True
        self._socket.close()
        os.waitpid(self.pid, 0)
        processes, self._processes = self._processes, {}
        for process in processes.values():
            process.exited(0)
        self._lost()


class ForkedProcess:
    """
    A process that was forked, as a reactor's process is to its protocol.

    :param pipes: by number, what it is to the parent (``"r"`` or ``"w"``) and the descriptor.
    """

    def __init__(self, reactor: Any, protocol: Any, pid: int, pipes: Mapping[int, tuple[str, int]]) -> None:
        self.pid = pid
        self.pipes: dict[int, Any] = {}
        self._protocol = protocol
        self._reason: Failure | None = None
        for number, (kind, descriptor) in pipes.items():
            if kind == "r":
                self.pipes[number] = ProcessReader(reactor, self, number, descriptor)
            else:
                self.pipes[number] = ProcessWriter(reactor, self, number, descriptor, forceReadHack=True)
        protocol.makeConnection(self)

    def writeToChild(self, childFD: int, data: bytes) -> None:
        """Write to a pipe."""
        self.pipes[childFD].write(data)

    def closeStdin(self) -> None:
        """Close the standard input."""
        if 0 in self.pipes:
            self.pipes[0].loseConnection()

    def loseConnection(self) -> None:
        """Close all pipes."""
        for pipe in tuple(self.pipes.values()):
            pipe.loseConnection()

    def signalProcess(self, signalID: str) -> None:
        """
        Send it a signal.

        :raises ProcessExitedAlready: if it has ended.
        """
        if self._reason is not None:
            raise ProcessExitedAlready
        try:
            os.kill(self.pid, signal.Signals["SIG" + signalID])
        except ProcessLookupError:
            raise ProcessExitedAlready from None

    def exited(self, status: int) -> None:
        """
        It has ended.

        :param status: as ``waitpid`` gives it.
        """
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            self._reason = Failure(ProcessDone(status))
        elif code > 0:
            self._reason = Failure(ProcessTerminated(exitCode=code, status=status))
        else:
            self._reason = Failure(ProcessTerminated(signal=-code, status=status))
        self._protocol.processExited(self._reason)
        self._look()

    # For the pipes.

    def childDataReceived(self, name: int, data: bytes) -> None:
        """It has written."""
        self._protocol.childDataReceived(name, data)

    def childConnectionLost(self, name: int, reason: Failure) -> None:
        """A pipe is done with."""
        os.close(self.pipes.pop(name).fileno())
        self._protocol.childConnectionLost(name)
        self._look()

    def _look(self) -> None:
        if self._reason is not None and not self.pipes:
            self._protocol.processEnded(self._reason)


def _help(control: socket.socket, work: Work, reactor: Any) -> NoReturn:
    """Fork when told to, and tell of those that end; until the parent has ended."""
    # They are for the parent, who tells its workers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    heard, said = os.pipe()
    os.set_blocking(heard, False)
    os.set_blocking(said, False)
    signal.set_wakeup_fd(said)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(heard, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if heard in ready:
            os.read(heard, 4096)
            _reap(control)
        if control.fileno() not in ready:
            continue
        try:
            asked, descriptors, _, _ = socket.recv_fds(control, 65536, MOST)
        except OSError:
            asked = b""
        if not asked:
            os._exit(0)
        numbers = dict(zip(json.loads(asked), descriptors, strict=True))
        try:
            pid = os.fork()
        except OSError as error:
            control.send(_NEWS.pack(_FAILED, 0, error.errno or 0))
        else:
            if not pid:
                for descriptor in (heard, said):
                    os.close(descriptor)
                control.close()
                _work(work, numbers, reactor)
            control.send(_NEWS.pack(_STARTED, pid, 0))
        for descriptor in descriptors:
            os.close(descriptor)


def _reap(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        control.send(_NEWS.pack(_ENDED, pid, status))


def _work(work: Work, descriptors: dict[int, int], reactor: Any) -> NoReturn:
    """Be a process of its own: with its own signals, standard files and reactor."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for standard in (0, 1, 2):
            os.dup2(descriptors[standard], standard)
            os.close(descriptors.pop(standard))
        # Its poller and its waker are the parent's. Whoever has a hold of the reactor has this one, so it is made
        # anew in its place; it has never run.
        type(reactor).__init__(reactor)
        work(descriptors)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        _show_traceback()
    finally:
        # Nothing of what the parent would do at its end is done here.
        os._exit(status)


def _show_traceback() -> None:
    try:
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    except OSError:
        pass
