"""
A connection of :mod:`smtpsvc.transport`: its rules are there.
"""

from __future__ import annotations

import select
import socket
from typing import Any, Final

from twisted.internet import address, main, tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionAborted
from twisted.python import log
from twisted.python.failure import Failure

from smtpsvc.nest import Nest
from smtpsvc.tlslayer import Securable

#: 64 KiB is best for plain TCP: beyond 128 KiB each buffer is a mapping of its own.
_PLAIN_READ: Final = 64 * 1024

#: A client that has more than a read has at most so many in a turn, as long as there is nothing to say to it.
_READS: Final = 4

_IN: Final = getattr(select, "EPOLLIN", 1)
_OUT: Final = getattr(select, "EPOLLOUT", 4)
_MSG_MORE: Final = getattr(socket, "MSG_MORE", 0)


#: Most connections end so; it is as Twisted's own default, and nobody changes it.
_DONE: Final = Failure(main.CONNECTION_DONE)


class _Plain(FileDescriptor):
    """
    What a connection does below TLS: its methods are called with a :class:`DirectServer`.

    TLS sends its records through these, so they leave as plain replies do and never overtake one.
    """

    def write(self: Any, data: bytes) -> None:
        """Send *data*: with the rest of the read that is going on, or now."""
        if self.delivering or self._tempDataLen or self.dataBuffer:
            FileDescriptor.write(self, data)
            return
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        if not data or not self.connected or self._writeDisconnected or self._aborting:
            return
        try:
            sent = self.socket.send(data)
        except OSError as error:
            # Full, or gone, which the next event tells: nothing is lost from inside a call.
            sent = 0
            self._broken = not isinstance(error, BlockingIOError)
        if sent < len(data):
            FileDescriptor.write(self, data[sent:] if sent else data)
        elif self.producer is not None and not self.streamingProducer:
            # A pull producer is asked for more by the next write event.
            self.startWriting()

    def writeSequence(self: Any, iovec: Any) -> None:
        """Send several pieces as one."""
        _Plain.write(self, b"".join(iovec))

    def loseConnection(self: Any) -> None:
        """Close when everything is sent: with the rest of the read that is going on, or in the next turn."""
        if self.connected and not self.disconnecting:
            self.disconnecting = 1
            if not self.delivering:
                self._watch(self._mask & ~_IN | _OUT)


class DirectServer(Securable, tcp.Server):
    """
    A server's connection; an ``ITCPTransport`` and ``IHalfCloseableDescriptor`` like its base.

    Its buffers are those of FileDescriptor, and it has no others.
    """

    #: True while data is delivered to the protocol: what is written waits for its end.
    delivering: bool
    # True when a send has failed: the error that recv would have given is spent, and it gives an end.
    _broken = False
    _mask = 0
    _read_size = _PLAIN_READ
    _bypass = _Plain
    bufferSize = 32 * 1024  # past so much that is not read, the producer is paused

    def __init__(
        self, sock: socket.socket, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any
    ) -> None:
        # As the bases do, without the texts that they format for each connection.
        FileDescriptor.__init__(self, reactor)
        sock.setblocking(False)
        self.socket = sock
        self.fileno = fileno = sock.fileno
        self._fd = fileno()
        self.protocol = protocol
        if len(client) != 2:
            self._addressType = address.IPv6Address
        self.server = server
        self.client = client
        self.sessionno = sessionno
        self.hostname = client[0]
        self.delivering = self.disconnecting = self.disconnected = False
        nest = getattr(server, "_nest", None)
        if nest is None or nest.closed:
            nest = Nest.enter(reactor, self)
        else:
            nest.join(self)
        self._nest = nest
        try:
            nest.watch(self, self._fd, 0, _IN)
        except OSError:
            nest.leave(self)
            sock.close()
            raise
        self._mask = _IN
        self.connected = 1

    @property
    def logstr(self) -> str:  # type: ignore[override]
        """The prefix of log lines."""
        protocol = getattr(self, "protocol", None)
        return f"{type(protocol).__name__},{self.sessionno},{self.hostname}"

    def __repr__(self) -> str:
        protocol = getattr(self, "protocol", None)
        return f"<{type(protocol).__name__} #{self.sessionno} from {self.hostname}>"

    # What is watched.

    def _watch(self, mask: int) -> None:
        before = self._mask
        # Once it is lost, its descriptor may be another's.
        if mask != before and not self.disconnected:
            self._mask = mask
            self._nest.watch(self, self._fd, before, mask)

    def startReading(self) -> None:
        """Wait for data."""
        self._watch(self._mask | _IN)

    def stopReading(self) -> None:
        """Wait for data no longer."""
        self._watch(self._mask & ~_IN)

    def startWriting(self) -> None:
        """Wait until more can be sent; while data is delivered, its end will see to it."""
        if not self.delivering:
            self._watch(self._mask | _OUT)

    def stopWriting(self) -> None:
        """Wait for that no longer."""
        self._watch(self._mask & ~_OUT)

    def ready(self, event: int) -> None:
        """
        Deal with an event.

        :param event: the bits of epoll.
        """
        why: Any = None
        if event == _IN and self._mask & _IN:
            try:
                why = self.doRead()
            except BaseException as error:
                log.err()
                why, event = error, 0
            if why:
                self._disconnect(why, event == _IN)
            return
        # What is wanted may have changed since the event was seen.
        reading = bool(event & self._mask & _IN)
        try:
            if reading:
                why = self.doRead()
            if event & self._mask & _OUT and not why:
                why = self.doWrite()
                reading = False
            if not event & (_IN | _OUT):
                # An error or a hang-up alone.
                why = main.CONNECTION_LOST
        except BaseException as error:
            # As the reactors do; from here it would take the other connections along.
            log.err()
            why, reading = error, False
        if why:
            self._disconnect(why, reading)

    def _disconnect(self, why: Exception, reading: bool) -> None:
        # As PosixReactorBase does.
        if not hasattr(self, "socket"):
            return
        try:
            if reading and why is main.CONNECTION_DONE and not self.disconnecting:
                # The client has ended its side only.
                self.stopReading()
                self.readConnectionLost(_DONE)
                return
            self._watch(0)
            self.connectionLost(_DONE if why is main.CONNECTION_DONE else Failure(why))
        except BaseException:
            log.err()

    # Reading and writing.

    def doRead(self) -> Any:
        """
        Deliver what has come, and send what is written meanwhile.

        :returns: None, or the reason for which the connection is lost.
        """
        reads = 0
        while True:
            try:
                data = self.socket.recv(self._read_size)
            except BlockingIOError:
                return None
            except OSError:
                return main.CONNECTION_LOST
            if not data:
                return main.CONNECTION_LOST if self._broken else main.CONNECTION_DONE
            self.delivering = True
            try:
                self.protocol.dataReceived(data)
            finally:
                self.delivering = False
            if self._tempDataLen or self.disconnecting or self._writeDisconnecting:
                # With the replies to the others that are read in this turn.
                self._nest.due.append(self)
                return None
            if len(data) < self._read_size:
                return None
            reads += 1
            if reads == _READS or not self._mask & _IN:
                return None

    def made(self, protocol: Any) -> None:
        """
        Tell the protocol that it has its connection.

        What it writes is sent by :meth:`send_due`, when the others that come in this turn have theirs.
        """
        self.delivering = True
        try:
            protocol.makeConnection(self)
        except BaseException:
            log.err()
        finally:
            self.delivering = False

    def send_due(self) -> None:
        """Send what was written while data was delivered; close, if that was asked for."""
        pieces = self._tempDataBuffer
        # Reading and not waiting to write: nothing is left of earlier writes, and nothing is aborted.
        if (
            self._mask != _IN
            or len(pieces) != 1
            or self.disconnecting
            or self.producerPaused
            or self._writeDisconnecting
            or not self.streamingProducer
        ):
            if not (self._tempDataLen or self.disconnecting or self._writeDisconnecting):
                return
            try:
                why = self._sendWritten()
            except BaseException as error:
                # As the reactors do; from here it would take the other connections along.
                log.err()
                why = error
            if why:
                self._disconnect(why, False)
            return
        # As _sendWritten does, for what is most usual: one reply, and room for it.
        data = pieces.pop()
        self._tempDataLen = 0
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._disconnect(main.CONNECTION_LOST, False)
            return
        if sent < len(data):
            self.dataBuffer = data[sent:]
            self.startWriting()

    def doWrite(self) -> Any:
        """
        Send more of what waits.

        :returns: None, or the reason for which the connection is lost.
        """
        if self._writeDisconnected:
            # Even nothing cannot be sent any more.
            self.stopWriting()
            return main.CONNECTION_DONE if self.disconnecting else None
        return super().doWrite()  # type: ignore[no-untyped-call]

    def _sendWritten(self) -> Any:
        """Send what was written while data was delivered; close, if that was asked for."""
        if self._aborting or not self.connected:
            return None
        # With a producer registered, the end is the producer's to say.
        closing = self.disconnecting and self.producer is None
        if not self.dataBuffer and self._tempDataLen:
            pieces = self._tempDataBuffer
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            try:
                # The FIN leaves in the same packet as the last reply. It must be that of the base's shutdown(2),
                # 0.4 µs: if more has come than was read, close() alone throws away what is held back here.
                sent = self.socket.send(data, _MSG_MORE if closing else 0)
            except BlockingIOError:
                sent = 0
            except OSError:
                return main.CONNECTION_LOST
            self._tempDataBuffer = []
            self._tempDataLen = 0
            if sent < len(data):
                self.dataBuffer = data[sent:]
        if not self.dataBuffer:
            producer: Any = self.producer
            if producer is not None and (self.producerPaused or not self.streamingProducer):
                self.producerPaused = False
                producer.resumeProducing()
            elif closing:
                return main.CONNECTION_DONE
        if self.disconnecting:
            self.stopReading()
        if self.dataBuffer or self._tempDataLen or self.disconnecting or self._writeDisconnecting:
            self.startWriting()
        return None

    def write(self, data: bytes) -> None:
        """Send *data*, through TLS if that has been started."""
        if not self.TLS:
            if self.delivering and self._mask == _IN and not self._tempDataLen and type(data) is bytes:
                size = len(data)
                if 0 < size < self.bufferSize and not self._writeDisconnected:
                    # As FileDescriptor.write does; send_due sees to the rest.
                    self._tempDataBuffer.append(data)
                    self._tempDataLen = size
                    return
            _Plain.write(self, data)
        elif self.connected:
            self.protocol.write(data)

    def writeSequence(self, iovec: Any) -> None:
        """Send several pieces as one."""
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Close when everything is sent; under TLS with its own farewell."""
        if not self.TLS:
            _Plain.loseConnection(self)
        elif self.connected and not self.disconnecting:
            self.protocol.loseConnection()

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone."""
        if hasattr(self, "socket"):
            # As the bases do, which stop once more what is stopped, and look at the reason by the names of its classes.
            self._watch(0)
            self.disconnected = 1
            self.connected = 0
            producer, self.producer = self.producer, None
            if producer is not None:
                producer.stopProducing()
            self._closeSocket(not isinstance(reason.value, ConnectionAborted))  # type: ignore[no-untyped-call]
            protocol = self.protocol
            del self.protocol, self.socket, self.fileno
            try:
                protocol.connectionLost(reason)
            finally:
                self._nest.leave(self)
