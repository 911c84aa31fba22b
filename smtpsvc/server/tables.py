"""
Tables: settings and extensions, compiled once for a factory.

A command then costs one look-up however many extensions there are, and the reply to EHLO is built
once for each kind of client.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from smtpsvc.extensions import Extension
from smtpsvc.extensions.offer import offered
from smtpsvc.grammar import replies
from smtpsvc.grammar.content import DotDecoder
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.states import ANY, State, out_of_sequence
from smtpsvc.interfaces import Check, Guard, IBackend, IExtension, IGreeting, IStorage, IVerifier
from smtpsvc.server.faults import HELLO, JUNK, count_hello, count_junk
from smtpsvc.server.inspection import Inspection
from smtpsvc.server.space import SpaceGuard
from smtpsvc.server.verbs import Verb, core_verbs
from smtpsvc.settings import BareNewline, Role, Settings
from smtpsvc.values import Envelope, Peer, Recipient

if TYPE_CHECKING:
    from smtpsvc.grammar.params import Parser
    from smtpsvc.server.conversation import Conversation


#: So many command lines are kept, about; and none that is longer.
_MOST_KEPT: Final = 1024
_LONGEST_KEPT: Final = 340


#: What a command line means: in which states it is allowed, what is to be done, with what, and its row.
Command = tuple[int, Callable[[Any, Any], Any], Any, Verb]


class Tables:
    """
    What the conversations of a factory look up.

    :raises ValueError: with a sentence, if two extensions claim the same name.
    """

    def __init__(self, settings: Settings, backend: IBackend, role: Role, extensions: Iterable[IExtension]) -> None:
        self.settings = settings
        self.role = role
        chosen = offered(extensions, settings, backend.supports)
        self.extensions = [extension for extension in chosen if role in extension.roles]
        keywords: dict[str, str] = {}
        for extension in self.extensions:
            _claim(keywords, extension.keyword.upper(), extension, "the keyword")
        #: The keywords of all extensions, whether advertised or not.
        self.keywords = frozenset(keywords)
        #: True if replies carry enhanced codes after EHLO (RFC 2034).
        self.enhanced = "ENHANCEDSTATUSCODES" in keywords

        mail_params, self._mail_checks = self._params("mail")
        rcpt_params, self._rcpt_checks = self._params("rcpt")
        #: True if the listener speaks LMTP.
        self.lmtp = role is Role.LMTP
        core = core_verbs(mail_params, rcpt_params, lenient=settings.lenient_paths, lmtp=self.lmtp)
        named: dict[str, Verb] = dict(core)
        least = settings.limits.min_free_space
        if least and IStorage.providedBy(backend):
            named["MAIL"] = _checked(core["MAIL"], SpaceGuard(backend, least).check)
        if settings.limits.junk:
            counted = {**dict.fromkeys(JUNK, count_junk), **dict.fromkeys(HELLO, count_hello)}
            named.update((name, _checked(named[name], count)) for name, count in counted.items() if name in named)
        claimed = dict.fromkeys(core, "the server")
        for extension in self.extensions:
            for name, verb in extension.verbs.items():
                _claim(claimed, name.upper(), extension, "the verb")
                named[name.upper()] = verb
        #: The rows by the octets of their names.
        self.verbs = {
            # A plain int: the flags of an IntFlag cost ten times as much to compare.
            name.encode("ascii"): replace(verb, name=name, allowed=int(verb.allowed))
            for name, verb in self._guarded(self._checked(named)).items()
        }

        #: Command lines that came before, with their CRLF; see :meth:`remember`.
        self.commands: dict[bytes, Command] = {}

        inspection = Inspection(settings.limits)
        #: Takes a message out of what comes behind DATA; called for each.
        self.decoder: Callable[[], DotDecoder] = DotDecoder
        if settings.bare_newline is BareNewline.NORMALIZE:
            self.decoder = partial(DotDecoder, normalize=True)
        #: How large a message may be; infinite if there is no limit.
        self.largest: float = settings.limits.message_size or math.inf
        #: Looks at the first piece of a message; None if there is nothing to look for.
        self.inspect = inspection.begin if inspection.needed else None

        #: The verbs that bring octets of their own.
        self.laden = tuple(name for name, verb in self.verbs.items() if verb.refused is not None)

        one_each = backend.per_recipient and not self.lmtp
        self.max_recipients = 1 if one_each else settings.limits.recipients
        #: The reply to one recipient too many.
        self.one_more = replies.ONE_RECIPIENT_EACH if one_each else replies.TOO_MANY_RECIPIENTS
        banner = settings.banner
        if self.lmtp and banner.startswith("ESMTP "):
            banner = "L" + banner.removeprefix("ES")
        self.greeting = PlainReply(220, f"{settings.hostname} {banner}".rstrip())
        # What HELP names: the verbs, each with the extension that must be shown to the client, if there is one.
        owners = {name.upper(): each for each in self.extensions for name in each.verbs}
        self._listed = [(name, owners.get(name)) for name, verb in sorted(named.items()) if verb.listed]
        self._hello = PlainReply(250, settings.hostname)
        self._welcomes: dict[tuple[Hashable, ...], Reply] = {}
        self._varies = any(extension.varies for extension in self.extensions)
        own = [each for each in self.extensions if getattr(type(each), "variant", None) is not Extension.variant]
        self._variants = [extension.variant for extension in own]

    def _params(self, command: str) -> tuple[dict[str, Parser], dict[str, Callable[..., Reply | None]]]:
        """Merge the parameters of MAIL or RCPT, and the checks of the extensions that bring them."""
        parsers: dict[str, Parser] = {}
        checks: dict[str, Callable[..., Reply | None]] = {}
        claimed: dict[str, str] = {}
        for extension in self.extensions:
            for name, parser in getattr(extension, f"{command}_params").items():
                _claim(claimed, name.upper(), extension, f"the {command.upper()} parameter")
                parsers[name.upper()] = parser
                checks[name.upper()] = getattr(extension, command)
        return parsers, checks

    def _checked(self, named: Mapping[str, Verb]) -> dict[str, Verb]:
        """Let the extensions look at arguments, the first before the others; a row without a check stays as it is."""
        rows = dict(named)
        for extension in reversed(self.extensions):
            for name, check in extension.checks(self.settings, self.role).items():
                rows[name] = _checked(rows[name], check)
        return rows

    def _guarded(self, named: Mapping[str, Verb]) -> dict[str, Verb]:
        """Put the extensions' guards in front of the verbs, the first outermost; a row without one stays as it is."""
        rows = dict(named)
        for extension in reversed(self.extensions):
            guards = extension.guards(self.settings, self.role)
            for name in rows if guards else ():
                guard = guards[name] if name in guards else guards.get("*")
                if guard is not None:
                    rows[name] = _guarded(rows[name], guard)
        return rows

    def remember(self, line: bytes, verb: Verb, value: Any) -> Command:
        """
        Say what a command line means, and keep that if it is one that comes again.

        Few lines make most of a server's work: to know one takes 0.1 µs, to understand it up to 3. A line with
        a parameter is not kept, so what is kept is immutable; and it is bounded in number and size. Of the verbs
        that bring octets most lines never come again: they take half of the room at most, and nobody's place.

        :param line: without its CRLF; whole, and of that verb.
        """
        command = verb.allowed, verb.proceed, value, verb
        if not verb.memorable or len(line) > _LONGEST_KEPT:
            return command
        kept = len(self.commands)
        if kept < _MOST_KEPT // 2 if verb.refused is not None else line.count(b" ") <= 1:
            if kept >= _MOST_KEPT:
                self.commands.clear()
            self.commands[line + b"\r\n"] = command
        return command

    def check_mail(self, conversation: Conversation, envelope: Envelope) -> Reply | None:
        """Ask the extensions whose parameters a MAIL has, each once; the first refusal wins."""
        for check in dict.fromkeys([self._mail_checks[name] for name in envelope.mail_params]):
            refusal = check(conversation, envelope)
            if refusal is not None:
                return refusal
        return None

    def check_rcpt(self, conversation: Conversation, envelope: Envelope, recipient: Recipient) -> Reply | None:
        """Ask the extensions whose parameters a RCPT has, each once; the first refusal wins."""
        for check in dict.fromkeys([self._rcpt_checks[name] for name in recipient.params]):
            refusal = check(conversation, envelope, recipient)
            if refusal is not None:
                return refusal
        return None

    def full(self, envelope: Envelope) -> Reply | None:
        """Refuse one recipient more, unless each of them will get a reply and there is room for all."""
        if not envelope.each_answered:
            return self.one_more
        limit = self.settings.limits.recipients
        return replies.TOO_MANY_RECIPIENTS if len(envelope.recipients) >= limit else None

    def trusts(self, peer: Peer) -> bool:
        """True if whoever gives *peer*'s commands is one of ``settings.trusted_proxies``."""
        settings = self.settings
        return bool(settings.trusted_proxies) and settings.trusts(peer.speaker)

    def welcome(self, conversation: Conversation, extended: bool) -> Reply:
        """The reply to EHLO, or to HELO if not *extended* (RFC 5321 §4.1.1.1)."""
        if not extended:
            return self._hello
        peer, session = conversation.peer, conversation.session
        verifies = IVerifier.providedBy(session)
        edits = IGreeting.providedBy(session)
        if edits or self._varies:
            lines = self.announce(conversation, verifies)
            return self._worded(session.ehlo(lines) if edits else lines)
        # None without TLS; False if it ended at a proxy and does not count.
        protected = peer.tls and conversation.secure
        kind: tuple[Hashable, ...] = (protected, peer.account is not None, conversation.trusted, verifies)
        if self._variants:
            kind += tuple([variant(conversation) for variant in self._variants])
        reply = self._welcomes.get(kind)
        if reply is None:
            reply = self._welcomes[kind] = self._worded(self.announce(conversation, verifies))
        return reply

    def help(self, conversation: Conversation) -> Reply:
        """The reply to HELP: it names the verbs but those of extensions that EHLO does not show to this client."""
        shown = [name for name, owner in self._listed if owner is None or owner.advertise(conversation) is not None]
        return Reply(214, f"Commands: {' '.join(shown)}\nSee RFC 5321", "2.0.0")

    def announce(self, conversation: Conversation, verifies: bool) -> list[str]:
        """The keywords with their arguments that this client is shown."""
        lines = []
        for extension in self.extensions:
            argument = extension.advertise(conversation)
            if argument is not None:
                lines.append(f"{extension.keyword} {argument}".rstrip())
        if verifies:
            # RFC 5321 §3.5.2: a server that has EXPN must list it.
            lines.append("EXPN")
        return lines

    def _worded(self, lines: Sequence[str]) -> Reply:
        return PlainReply(250, "\n".join([self.settings.hostname, *lines]))


class PlainReply(Reply):
    """The greeting and the replies to EHLO and HELO: never with an enhanced code (RFC 2034 §4)."""

    __slots__ = ()

    def wire(self, extended: bool) -> bytes:
        """Encode the reply without the enhanced code, whatever the client asked for."""
        return super().wire(False)


def _checked(verb: Verb, check: Check) -> Verb:
    """Make a row that asks *check* when its argument was parsed."""

    def proceed(conversation: Conversation, value: Any) -> Any:
        refusal = check(conversation, value)
        if refusal is None:
            return verb.proceed(conversation, value)
        return refusal if verb.refused is None else verb.refused(conversation, value, refusal)

    return replace(verb, proceed=proceed)


def _guarded(verb: Verb, guard: Guard) -> Verb:
    """Make a row that asks *guard* before all else."""

    def proceed(conversation: Conversation, argument: bytes) -> Any:
        refusal = guard(conversation)
        if refusal is not None:
            return verb.refuse(conversation, argument, refusal)
        if not conversation.state & verb.allowed:
            refusal = out_of_sequence(State(verb.allowed), conversation.state, lmtp=conversation.tables.lmtp)
            return verb.refuse(conversation, argument, refusal)
        try:
            value = verb.parse(argument)
        except ValueError as problem:
            return Reply(501, str(problem), "5.5.4")
        return verb.proceed(conversation, value)

    return replace(verb, allowed=ANY, parse=bytes, proceed=proceed, refused=verb.refused and verb.refuse)


def _claim(claimed: dict[str, str], name: str, extension: Any, what: str) -> None:
    if name in claimed:
        raise ValueError(f"{what} {name} belongs to {claimed[name]} already; {extension.keyword} cannot have it too")
    claimed[name] = extension.keyword
