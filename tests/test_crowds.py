"""
Tests of smtpsvc.server with many sessions, and many commands, at a time: the stack stays flat.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import DeferredLock, succeed
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, RCPT, Late, coroutine, lines
from tests.support import uncounted

#: A hook that takes the lock, and the one that gives it back.
PAIRS = [
    ("helo", "mail"),
    ("mail", "rcpt"),
    ("rcpt", "data"),
    ("data", "write"),
    ("write", "finish"),
    ("mail", "reset"),
    ("finish", "reset"),
]


class Locking(Session, Delivery):
    """Takes a lock in one hook and gives it back in another; a session and its own delivery."""

    def __init__(self, lock: DeferredLock, takes: str, gives: str) -> None:
        self.lock = lock
        self.takes = takes
        self.gives = gives
        self.holds = False
        self.done = False

    def do(self, hook: str) -> Any:
        """Do what is to be done in a hook."""
        if hook == self.takes and not self.done:
            return self.lock.acquire().addCallback(self.got)
        if hook == self.gives and self.holds:
            self.holds = False
            self.done = True
            self.lock.release()
        return None

    def got(self, _: object) -> None:
        """The lock is ours."""
        self.holds = True

    def helo(self, name: str) -> Any:
        """Follow :attr:`takes` and :attr:`gives`, as all hooks do."""
        return self.do("helo")

    def mail(self, envelope: Any) -> Any:
        return self.do("mail")

    def rcpt(self, envelope: Any, recipient: Any) -> Any:
        return self.do("rcpt")

    def data(self, envelope: Any) -> Any:
        outcome = self.do("data")
        return self if outcome is None else outcome.addCallback(lambda _: self)

    def write(self, content: bytes) -> Any:
        return self.do("write")

    def finish(self) -> Any:
        return self.do("finish")

    def reset(self, envelope: Any, upgraded: bool) -> Any:
        return self.do("reset")


class LockingBackend(Backend):
    """Opens sessions that share a lock."""

    def __init__(self, takes: str, gives: str) -> None:
        self.lock = DeferredLock()
        self.pair = takes, gives
        self.sessions: list[Locking] = []

    def open_session(self, peer: Any, connection: Any) -> Locking:
        """Open one."""
        self.sessions.append(Locking(self.lock, *self.pair))
        return self.sessions[-1]


def depth_of(call: Callable[[], object]) -> int:
    """Call, and give how deep the Python stack was below."""
    deepest = base = len_of_stack()

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal deepest, current
        if event == "call":
            current += 1
            deepest = max(deepest, current)
        elif event == "return":
            current -= 1

    current = base
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return deepest - base


def len_of_stack() -> int:
    """Count the frames of the stack."""
    frame, found = sys._getframe(), 0
    while frame is not None:
        found += 1
        frame = frame.f_back  # type: ignore[assignment]
    return found


class SessionTests(SynchronousTestCase):
    def crowd(self, takes: str, gives: str, size: int) -> tuple[LockingBackend, list[Wire]]:
        """Let *size* clients send a whole message each while a stranger has the lock."""
        backend = LockingBackend(takes, gives)
        backend.lock.acquire()
        factory, _ = clocked_factory(backend, uncounted())
        dialogue = lines("EHLO client.example", MAIL, RCPT, "DATA", "text", ".")
        return backend, [Wire(factory).receive(dialogue) for _ in range(size)]

    def test_behind_a_lock(self) -> None:
        """10,000 sessions wait behind one DeferredLock that a later hook gives back, or 2,000: all are served."""
        for takes, gives in PAIRS:
            with self.subTest(takes=takes, gives=gives):
                size = 10_000 if takes == "mail" and gives == "rcpt" else 2_000
                backend, wires = self.crowd(takes, gives, size)
                self.assertEqual(len(backend.lock.waiting), size)
                backend.lock.release()
                self.assertTrue(all(session.done for session in backend.sessions))
                self.assertEqual({tuple(wire.codes) for wire in wires}, {(220, 250, 250, 250, 354, 250)})
                self.assertEqual(self.flushLoggedErrors(), [])

    def test_no_deeper(self) -> None:
        """The stack is as deep for many sessions as for a few."""
        for takes, gives in PAIRS:
            with self.subTest(takes=takes, gives=gives):
                few, _ = self.crowd(takes, gives, 10)
                many, _ = self.crowd(takes, gives, 100)
                self.assertEqual(depth_of(many.lock.release), depth_of(few.lock.release))

    def test_lost_meanwhile(self) -> None:
        """Sessions whose client has gone leave the queue, and those behind are served."""
        backend, wires = self.crowd("mail", "rcpt", 100)
        for wire in wires[::2]:
            wire.hang_up()
        self.assertEqual(len(backend.lock.waiting), 50)
        backend.lock.release()
        self.assertEqual([len(wire.codes) for wire in wires], [2, 6] * 50)
        self.assertFalse(backend.lock.locked)


class CommandTests(SynchronousTestCase):
    def test_many_fired(self) -> None:
        """100,000 pipelined commands whose hooks give fired Deferreds or coroutines are answered, each once."""
        for form in (succeed, coroutine, lambda value: value):
            backend = _Fired(form)
            wire = Wire(clocked_factory(backend, uncounted(recipients=200_000))[0]).greeted()
            wire.receive(lines(MAIL) + lines(RCPT) * 100_000)
            self.assertEqual(wire.output.count(b"250 2.1.5"), 100_000)
            self.assertEqual(backend.asked, 100_000)

    def test_no_deeper(self) -> None:
        """The stack is as deep for many commands as for fewer."""
        depths = []
        for count in (400, 4000):
            wire = Wire(clocked_factory(_Fired(succeed), uncounted(recipients=5000))[0]).greeted().say(MAIL)
            depths.append(depth_of(lambda wire=wire, count=count: wire.receive(lines(RCPT) * count)))  # type: ignore[misc]
        self.assertEqual(depths[0], depths[1])

    def test_many_pending(self) -> None:
        """So are 10,000 whose hooks are pending, each fired when it is asked."""
        late = Late()
        backend = ScriptedBackend(rcpt=late)
        wire = Wire(clocked_factory(backend, uncounted(recipients=20_000))[0]).greeted()
        wire.receive(lines(MAIL) + lines(RCPT) * 10_000)
        late.fire_all()
        self.assertEqual(len(wire.codes), 10_001)


class _Fired(Backend, Session):
    """A backend and its own session, whose rcpt answers in one form."""

    def __init__(self, form: Callable[[Any], Any]) -> None:
        self.form = form
        self.asked = 0

    def open_session(self, peer: Any, connection: Any) -> Any:
        """Give itself."""
        return self

    def rcpt(self, envelope: Any, recipient: Any) -> Any:
        """Count, and consent."""
        self.asked += 1
        return self.form(None)
