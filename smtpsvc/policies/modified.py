"""
What can be said of any policy: whom it spares, how long it may take, and what becomes of its refusals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.awaiting import settled
from smtpsvc.failures import shown_failure
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.interfaces import IPolicy
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.asking import Check, name_of, subject, with_id
from smtpsvc.policies.chain import CHECKS, Policy, overridden
from smtpsvc.policies.clients import Clients
from smtpsvc.policies.front import Front
from smtpsvc.values import Envelope, Peer

#: The checks whose refusals may wait for RCPT.
DEFERRABLE: Final = ("connect", "helo", "mail")

log = Logger()


class _Kept(dict[tuple[int, str], Reply]):
    """In the results of a client or an envelope: refusals that wait for RCPT, by policy and check."""


class _Warned(set[int]):
    """In the results of an envelope: the policies that have warned of its content."""


class Modified(Front, Policy):
    """
    A policy in front of which something else is said; :func:`modified` makes it.

    It has just the checks that it needs, so that the chain asks no others.
    """

    __slots__ = ("_checks", "clock", "deadline", "defer", "name", "on_timeout", "spared", "warn_only")

    def __init__(
        self,
        policy: IPolicy,
        checks: dict[str, Check],
        *,
        spared: Clients | None,
        warn_only: bool,
        defer: bool,
        deadline: float | None,
        on_timeout: Reply | None,
        clock: IReactorTime | None,
    ) -> None:
        self._behind = policy
        self._checks = checks
        self.name = name_of(policy)  # type: ignore[misc]
        self.spared = spared
        self.warn_only = warn_only
        self.defer = defer
        self.deadline = deadline
        self.on_timeout = on_timeout
        self.clock = clock

    @property
    def prepends(self) -> bool:  # type: ignore[override]
        """As the policy behind."""
        return bool(getattr(self._behind, "prepends", False))

    @property
    def tidies(self) -> bool:  # type: ignore[override]
        """As the policy behind."""
        return bool(getattr(self._behind, "tidies", False))

    def __repr__(self) -> str:
        return repr(self._behind)

    def _ask(self, stage: str, args: tuple[Any, ...]) -> Any:
        first = args[0]
        envelope = first if isinstance(first, Envelope) else None
        peer: Peer = first if envelope is None else first.peer
        if self.spared is not None and self.spared.has(peer):
            return None
        if self.defer:
            kept = self._kept(stage, peer, envelope)
            if kept is not None:
                return self._refuse(stage, args, kept) if stage == "rcpt" else None
        check = self._checks.get(stage)
        if check is None:
            return None
        try:
            outcome = check(*args)
        except SMTPError as error:
            outcome = error.reply
        if outcome is None:
            return None
        if isinstance(outcome, Reply):
            return self._refuse(stage, args, outcome) if outcome.code >= 400 else outcome
        return self._wait(stage, args, outcome)

    async def _wait(self, stage: str, args: tuple[Any, ...], pending: Any) -> Any:
        outcome = settled(pending)
        try:
            given = await (self._in_time(outcome) if self.deadline else outcome)
        except SMTPError as error:
            given = error.reply
        return self._refuse(stage, args, given) if isinstance(given, Reply) and given.code >= 400 else given

    def _in_time(self, outcome: Any) -> Deferred[Any]:
        """Give what comes within the deadline, or else the verdict for what does not."""
        assert self.clock is not None, "modified() has seen to it"
        pending = Deferred.fromCoroutine(outcome)

        def give_up(_: object) -> None:
            # A check may take its time over that.
            timer.cancel()
            pending.cancel()

        answer: Deferred[Any] = Deferred(give_up)

        def late() -> None:
            log.warn("{policy} took longer than {seconds} s", policy=self.name, seconds=self.deadline)
            answer.callback(self.on_timeout)
            pending.cancel()

        timer = self.clock.callLater(self.deadline or 0, late)

        def came(value: Any) -> None:
            if timer.active():
                timer.cancel()
            if not answer.called:
                answer.callback(value)
            elif isinstance(value, Failure) and not value.check(CancelledError, SMTPError):
                log.failure("{policy} failed after its deadline", shown_failure(value), policy=self.name)

        pending.addBoth(came)
        return answer

    def _kept(self, stage: str, peer: Peer, envelope: Envelope | None) -> Reply | None:
        """Give the refusal that waits, if there is one."""
        found = None if envelope is None else envelope.results.get(_Kept)
        reply = None if found is None else found.get((id(self), "mail"))
        before = peer.results.get(_Kept)
        if reply is not None or before is None:
            return reply
        if stage == "helo":
            # A new name is judged anew.
            before.pop((id(self), "helo"), None)
        return before.get((id(self), "connect")) or before.get((id(self), "helo"))

    def _refuse(self, stage: str, args: tuple[Any, ...], reply: Reply) -> Reply | None:
        """Do with a refusal what was said: keep it for RCPT, or let it pass with a warning."""
        if self.defer and stage in DEFERRABLE:
            results = args[0].results
            kept = results.get(_Kept)
            if kept is None:
                kept = _Kept()
                results.put(kept)
            kept[id(self), stage] = reply
            return None
        if not self.warn_only:
            return reply
        if stage != "content" or self._warn_once(args[0]):
            fields = subject(args)
            log.warn(
                "{peer_id}: {policy} would refuse {stage} of {about}: {code} {enhanced} {text!r}",
                policy=self.name,
                stage=stage,
                code=reply.code,
                enhanced=reply.enhanced,
                text=with_id(reply, fields["id"] or fields["peer_id"]).text,
                **fields,
            )
        return None

    def _warn_once(self, envelope: Envelope) -> bool:
        warned = envelope.results.get(_Warned)
        if warned is None:
            warned = _Warned()
            envelope.results.put(warned)
        new = id(self) not in warned
        warned.add(id(self))
        return new


def _method(stage: str) -> Callable[..., Any]:
    def check(self: Modified, *args: Any) -> Any:
        return self._ask(stage, args)

    check.__name__ = stage
    check.__doc__ = f"Ask the policy's {stage}."
    return check


_METHODS: Final = {stage: _method(stage) for stage in CHECKS}


def modified(
    policy: IPolicy,
    *,
    spared: Clients | None = None,
    warn_only: bool = False,
    defer: bool = False,
    deadline: float | None = None,
    on_timeout: Reply | None = replies.HOOK_TIMED_OUT,
    clock: IReactorTime | None = None,
) -> IPolicy:
    """
    Say something of a policy.

    :param spared: clients that it is not asked about.
    :param warn_only: its refusals are logged, with what they would have refused, and let pass.
    :param defer: refusals of ``connect``, ``helo`` and ``mail`` are given at RCPT, so that the recipients are logged;
        until then, and for that client or transaction, it is not asked any more.
    :param deadline: seconds for each check; what takes longer is cancelled.
    :param on_timeout: what a check past the deadline counts as: a refusal, or None for consent.
    :param clock: of the deadline; the reactor mostly.
    :returns: *policy* itself if nothing is said.
    :raises ValueError: with a sentence, if there is a deadline and no clock.
    """
    if deadline and clock is None:
        raise ValueError("a deadline needs a clock")
    if not (spared or warn_only or defer or deadline):
        return policy
    checks = {stage: check for stage in CHECKS if (check := overridden(policy, stage)) is not None}
    stages = {*checks, "rcpt"} if defer and checks.keys() & set(DEFERRABLE) else set(checks)
    kind = type("Modified", (Modified,), {"__slots__": (), **{stage: _METHODS[stage] for stage in stages}})
    made: IPolicy = kind(
        policy,
        checks,
        spared=spared or None,
        warn_only=warn_only,
        defer=defer,
        deadline=deadline,
        on_timeout=on_timeout,
        clock=clock,
    )
    return made


#: For the help of every policy.
HELP: Final = """\
Every policy has these settings too:

  warn-only          log what it would refuse, and refuse nothing
  defer              give refusals of the connection, of EHLO and of MAIL at RCPT,
                     so that the recipients are logged
  except=CLIENT      do not ask it about this client: an address, a network, unix for
                     clients of unix sockets, or auth for who has logged in;
                     may be given several times
  deadline=TIME      let each of its checks take so long, e.g. 5s
  on-timeout=VERDICT 451 to refuse for now what has taken too long, accept to let it
                     pass [default: 451]"""

_VERDICTS: Final = {"451": replies.HOOK_TIMED_OUT, "accept": None}


def read_modifiers(arguments: Arguments) -> Callable[[IPolicy, IReactorTime], IPolicy]:
    """
    Take what can be said of any policy out of its arguments.

    :returns: says it of a policy.
    :raises ValueError: with a sentence.
    """
    warn_only = arguments.yes("warn-only")
    defer = arguments.yes("defer")
    deadline = arguments.seconds("deadline", 0.0)
    on_timeout = _VERDICTS[arguments.choice("on-timeout", tuple(_VERDICTS), "451")]
    try:
        spared = Clients(arguments.texts("except"))
    except ValueError as error:
        raise ValueError(f"except: {error}") from None

    def modify(policy: IPolicy, clock: IReactorTime) -> IPolicy:
        return modified(
            policy,
            spared=spared,
            warn_only=warn_only,
            defer=defer,
            deadline=deadline or None,
            on_timeout=on_timeout,
            clock=clock,
        )

    return modify
