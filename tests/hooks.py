"""
What the tests of hooks share: answers that come late, and the dialogue that reaches every hook.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from smtpsvc.grammar.replies import Reply
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.support import uncounted

MAIL = "MAIL FROM:<a@x.example>"
RCPT = "RCPT TO:<b@y.example>"

#: The hooks that a client waits for, in the order of :data:`DIALOGUE`.
HOOKS = ("open_session", "helo", "mail", "rcpt", "data", "write", "finish", "reset")

#: Those whose replies the backend may word.
WORDED = ("mail", "rcpt", "finish")

#: A dialogue that calls every hook, and the codes of its replies with the greeting's.
DIALOGUE = b"\r\n".join(
    [b"EHLO client.example", MAIL.encode(), RCPT.encode(), b"DATA", b"text", b".", b"VRFY a", b"RSET", b"QUIT", b""]
)
CODES = [220, 250, 250, 250, 354, 250, 252, 250, 221]

#: How many replies stand before that of each hook in :data:`CODES`.
PLACES = {"open_session": 0, "helo": 1, "mail": 2, "rcpt": 3, "data": 4, "write": 5, "finish": 5, "reset": 5}


def lines(*texts: str) -> bytes:
    """Make one packet of lines."""
    return "".join(f"{text}\r\n" for text in texts).encode()


def connect(backend: ScriptedBackend, **settings: Any) -> Wire:
    """Connect to a factory with a clock, and say EHLO."""
    return Wire(clocked_factory(backend, uncounted(**settings))[0]).greeted()


def in_data(backend: ScriptedBackend, **settings: Any) -> Wire:
    """Connect, and go on until the client has its 354; replies and counts start afresh."""
    wire = connect(backend, **settings).say(MAIL, RCPT, "DATA")
    if wire.codes[-1] != 354:
        raise AssertionError(wire.codes)
    return wire.forget()


def usual(backend: ScriptedBackend, hook: str, *args: Any) -> Any:
    """Make what a hook gives if it consents: a session, a delivery, or None."""
    if hook == "open_session":
        return backend.new_session(*args)
    return backend.new_delivery(*args) if hook == "data" else None


class Late:
    """
    An answer of a script that comes when the test says so.

    :ivar waiting: the Deferreds that were given and are pending.
    :ivar cancelled: how many were cancelled.
    :param make: gives the usual value for the arguments of a call.
    """

    def __init__(self, make: Callable[..., Any] = lambda *args: None) -> None:
        self._make = make
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0
        self._values: list[Any] = []

    def __call__(self, *args: Any) -> Deferred[Any]:
        """Give a pending Deferred."""
        deferred: Deferred[Any] = Deferred(self._cancel)
        self.waiting.append(deferred)
        self._values.append(args)
        return deferred

    def _cancel(self, deferred: Deferred[Any]) -> None:
        self.cancelled += 1

    def fire(self, value: Any = None) -> None:
        """Let the oldest answer come: *value*, or what the hook usually gives."""
        args = self._values.pop(0)
        self.waiting.pop(0).callback(self._make(*args) if value is None else value)

    def fail(self, error: Exception) -> None:
        """Let the oldest answer be an error."""
        self._values.pop(0)
        self.waiting.pop(0).errback(Failure(error))

    def fire_all(self) -> None:
        """Let all answers come, and those that are asked for meanwhile."""
        while self.waiting:
            self.fire()


async def _return(value: Any) -> Any:
    return value


async def _raise(error: Exception) -> Any:
    raise error


async def _await(value: Any) -> Any:
    return await succeed(value)


def coroutine(value: Any) -> Coroutine[Any, Any, Any]:
    """Make a coroutine that returns *value*, or raises it."""
    return _raise(value) if isinstance(value, Exception) else _return(value)


def awaiting(value: Any) -> Coroutine[Any, Any, Any]:
    """Make a coroutine that awaits a fired Deferred first."""
    return _await(value)


#: The ways to give an answer at once.
FORMS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda value: value,
    "fired Deferred": succeed,
    "coroutine": coroutine,
    "coroutine that awaits": awaiting,
}

REFUSAL = Reply(450, "Not now", "4.7.1")
