"""
Hooks: how a conversation asks its session, and waits for the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from smtpsvc.awaiting import deferred_of
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.server.channel import CLOSED, LINES, PROMPT, WAITING, Channel, Mode
from smtpsvc.server.outcomes import Wait, judge, report
from smtpsvc.values import Peer

if TYPE_CHECKING:
    from smtpsvc.server.factory import SMTPFactory


class Hooks:
    """
    The part of a conversation that calls hooks.

    One outcome is waited for at a time; meanwhile nothing of the client is taken, but for the one
    line that a prompt asks for.
    """

    __slots__ = ("asked", "channel", "factory", "farewell", "mode", "peer", "pending_prompt", "wait")

    channel: Channel
    factory: SMTPFactory
    peer: Peer
    mode: Mode
    #: The outermost outcome that is waited for, or goes on.
    wait: Wait | None
    #: When the backend was asked for it, by the sweep's clock.
    asked: float
    #: Fires with the line that a prompt asked for.
    pending_prompt: Deferred[bytes] | None
    #: The last reply, while the answer to a command goes first.
    farewell: Reply | None

    if TYPE_CHECKING:

        def reply(self, reply: Reply) -> None:
            """Send a reply in its turn."""

        def finish(self, reply: Reply) -> None:
            """Send a last reply, and close."""

    def ask(
        self,
        hook: Callable[..., Any],
        *args: Any,
        accepted: Callable[[Any], object] | None = None,
        reply: Reply = replies.OK,
    ) -> Reply | Deferred[Reply]:
        """
        Call a hook of the session and settle its outcome.

        :param accepted: called with the last of *args* if the hook consents, before the reply.
        :param reply: the answer if the hook returns None.
        :returns: the Reply, or a Deferred of it while the hook is pending.
        """
        try:
            outcome = hook(*args)
        except Exception as error:
            return self.raised(error, hook)
        return self.consented(outcome, hook, args[-1] if args else None, accepted, reply)

    def raised(self, error: Exception, hook: Callable[..., Any]) -> Reply:
        """Make a Reply of what a hook has just raised."""
        return error.reply if isinstance(error, SMTPError) else self.failed(Failure(), hook)

    def consented(
        self,
        outcome: Any,
        hook: Callable[..., Any],
        subject: Any,
        accepted: Callable[[Any], object] | None,
        reply: Reply,
    ) -> Reply | Deferred[Reply]:
        """
        Settle what a hook gave.

        :param accepted: called with *subject* if the hook consents, before the reply.
        :returns: as :meth:`ask`.
        """
        if outcome is None:
            if accepted is not None:
                accepted(subject)
            return reply

        def answer(value: Any) -> Reply:
            given = self.judge(value, hook) or reply
            if accepted is not None and given.positive:
                accepted(subject)
            return given

        return self._later(outcome, answer)

    def call(
        self,
        answer: Callable[[Any], Reply],
        hook: Callable[..., Any],
        *args: Any,
        late: Callable[[Any], None] | None = None,
    ) -> Reply | Deferred[Reply]:
        """
        Call a hook that gives other things than replies.

        :param answer: turns what it gave, or the Failure of what it raised, into a Reply.
        :param late: called with the value instead if it comes after a deadline or a loss.
        :returns: the Reply, or a Deferred of it while the hook is pending.
        """
        try:
            outcome = hook(*args)
        except Exception:
            return answer(Failure())
        return self._later(outcome, answer, late)

    def _later(
        self, outcome: Any, answer: Callable[[Any], Reply], late: Callable[[Any], None] | None = None
    ) -> Reply | Deferred[Reply]:
        deferred = deferred_of(outcome)
        if deferred is None:
            return answer(outcome)
        wait = Wait(deferred)
        if wait.fired:
            return answer(wait.value)
        done: Deferred[Reply] = Deferred(lambda _: wait.abandon(late or self.discard))

        def go_on(value: Any) -> None:
            if done.called:
                (late or self.discard)(value)
                return
            try:
                reply = answer(value)
            except Exception:
                reply = self.failed(Failure(), "the server")
            done.callback(reply)

        wait.then = lambda value: self._turn(lambda: go_on(value))
        return done

    def _turn(self, work: Callable[[], None]) -> None:
        """Do what an outcome leads to: now if this client is being read, else never nested."""
        if self.factory.reading is self.channel:
            work()
        else:
            self.factory.turn(work)

    def judge(self, value: Any, hook: object = "") -> Reply | None:
        """Turn what a hook gave into a Reply, or None for plain consent; a failure is logged."""
        if value is None:
            return None
        return judge(value, self.peer, lambda failure: self.failed(failure, hook))

    def failed(self, failure: Failure, hook: object = "") -> Reply:
        """
        Log what a hook raised, and tell the monitors.

        :returns: 451 4.3.0; the failure's text stays here.
        """
        # At its close it is not the conversation's any more.
        session = getattr(self, "session", None) or getattr(hook, "__self__", None)
        report(failure, self.peer, str(getattr(hook, "__qualname__", hook)) or "a hook", session)
        watch = self.factory.watch.failed
        if watch is not None:
            watch(self.peer, failure)
        return replies.LOCAL_ERROR

    def settle(
        self, outcome: Any, then: Callable[[Any], None], late: Callable[[Any], None] | None = None, hook: str = ""
    ) -> None:
        """
        Go on with an outcome: at once, or when it comes.

        :param outcome: a plain value, or an awaitable of one; while it is pending, nothing
            of the client is taken.
        :param then: called with the value, or with the Failure of what was raised.
        :param late: called with the value instead if it comes after a deadline or a loss.
        :param hook: what was asked, for the monitors.
        """
        if outcome is None:
            then(None)
            return
        deferred = deferred_of(outcome)
        if deferred is None:
            then(outcome)
            return
        mode = self.mode
        wait = Wait(deferred)
        if wait.fired:
            then(wait.value)
            return
        if mode is CLOSED:
            wait.abandon(late or self.discard)
            return
        if self.pending_prompt is None:
            self.mode = WAITING
        elif mode is PROMPT:
            mode = LINES
        self.wait = wait
        self.asked = self.factory.sweep.now
        wait.late = late
        watch = self.factory.watch.waited
        if watch is not None and self.pending_prompt is None:
            wait.began = self.factory.clock.seconds()

        def go_on(value: Any) -> None:
            if watch is not None and wait.began is not None:
                watch(self.peer, hook, self.factory.clock.seconds() - wait.began)
            if self.mode is CLOSED:
                (late or self.discard)(value)
                return
            if self.mode is WAITING:
                # Else the answer has changed it already: content comes next, or TLS.
                self.mode = mode
            # The time of the hook is not the client's.
            self.channel.since += self.factory.sweep.now - self.asked
            try:
                then(value)
            except Exception:
                self.failed(Failure(), "the server")
                self.finish(replies.NO_SESSION)
            if self.wait is wait:
                # Until now: a hook that is called meanwhile, and closes, waits for this reply.
                self.wait = None
            if self.farewell is not None and self.mode not in (WAITING, CLOSED):
                self.finish(self.farewell)
            self.channel.wake()

        wait.then = lambda value: self._turn(lambda: go_on(value))

    def expire(self) -> None:
        """The hook that is waited for has taken too long: answer in its place, and ask it to stop."""
        wait = self.wait
        if wait is None or wait.then is None:
            return
        then, late = wait.then, wait.late
        wait.abandon(late or self.discard)
        self.factory.keep_track(wait.deferred)
        watch = self.factory.watch.limited
        if watch is not None:
            watch(self.peer, "hook-timeout")
        if self.mode is not CLOSED:
            # Else the hook has dropped the client when it was asked to stop.
            then(replies.HOOK_TIMED_OUT)

    def prompt(self, reply: Reply) -> Deferred[bytes]:
        """
        Send a 3xx reply and wait for one line of the client.

        :returns: a Deferred of the line without its CRLF.
        :raises RuntimeError: if a prompt is open already.
        """
        if self.pending_prompt is not None:
            raise RuntimeError("a prompt is open already")

        def forget(cancelled: Deferred[bytes]) -> None:
            if self.pending_prompt is cancelled:
                self.pending_prompt = None
                self.mode = LINES if self.wait is None else WAITING

        prompt: Deferred[bytes] = Deferred(forget)
        if self.mode is CLOSED:
            prompt.cancel()
            return prompt
        self.pending_prompt = prompt
        if self.wait is not None:
            # The time of the client is not the hook's.
            self.wait.began = None
        self.mode = PROMPT
        self.reply(reply)
        return prompt

    def prompted(self, line: bytes) -> None:
        """Take the line that a prompt asked for."""
        prompt, self.pending_prompt = self.pending_prompt, None
        self.mode = WAITING
        self.asked = self.factory.sweep.now
        assert prompt is not None
        prompt.callback(line)

    def end_prompt(self, reply: Reply) -> None:
        """End the exchange that waits for a line: it is refused with *reply*."""
        prompt, self.pending_prompt = self.pending_prompt, None
        self.mode = WAITING
        self.asked = self.factory.sweep.now
        assert prompt is not None
        prompt.errback(Failure(SMTPError(reply)))

    def background(self, hook: Callable[..., Any], *args: Any) -> None:
        """Call a hook that nobody waits for; what it raises is logged."""
        try:
            deferred = deferred_of(hook(*args))
        except Exception:
            self.failed(Failure(), hook)
            return
        if deferred is not None:
            self.factory.keep_track(deferred.addErrback(self.discard))

    def discard(self, value: Any) -> None:
        """Take what comes of a hook that nobody waits for any more."""
        if isinstance(value, Failure) and not value.check(CancelledError, SMTPError):
            self.failed(value)
