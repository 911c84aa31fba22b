"""
Ask a web server, in JSON. It needs the extra webhook: pip install 'smtpsvc[webhook]'.

The value is a URL of https, or of http on this host; a comma in it is written %2C. What is known of the client and the
message is posted to it as an object, at the stages that at= says: mail, rcpt, data or message; at= may be given several
times [default: rcpt]. It answers with another object, whose action is accept, reject, defer, discard, tag or
quarantine, with code, enhanced, text and headers where that makes sense. With at=message each message is held back
until its end; with headers=yes its header is told then.

secret= is a file: what is told is signed with what stands in it (HMAC-SHA256). on-failure= says what becomes of mail
while there is no answer: 451 refuses it for now [the default, unless on-timeout= says something else], accept lets it
pass. timeout= is the time for all of an answer [default: 10s], connect-timeout= that for a connection [default: 5s].
ca= is a file of the authorities (PEM) that the server's certificate is verified with [default: those of the system].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments, parse_choice
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.discarded import discard
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.hookclient import WebHook, web_hook
from smtpsvc.policies.hookverdicts import HookVerdict, question, read_verdict, signed
from smtpsvc.policies.prepended import prepend
from smtpsvc.policies.reaching import NOT_AVAILABLE, ProgramFailed, Reach, read_failure
from smtpsvc.values import Envelope, Quarantine, Recipient
from smtpsvc.watched import WatchedFile

STAGES: Final = ("mail", "rcpt", "data", "message")


class Hook(Policy, Service):  # type: ignore[misc]
    """
    Asks a web server.

    :param stages: at which: ``mail``, ``rcpt``, ``data`` or ``message``.
    :param secret: gives what to sign with; None for no signature.
    :param headers: the header of the message is told too.
    :param on_failure: what is answered while there is no answer; None to let mail pass.
    :param clock: of the time in the signature: seconds since 1970, as the reactor has it.
    :param name: of the policy, in the log.
    :raises ValueError: with a sentence, if a stage is none.
    """

    prepends = True

    def __init__(
        self,
        web: WebHook,
        stages: Iterable[str] = ("rcpt",),
        *,
        secret: Callable[[], bytes] | None = None,
        headers: bool = False,
        on_failure: Reply | None = NOT_AVAILABLE,
        clock: IReactorTime,
        name: str = "hook",
    ) -> None:
        self.name = name  # type: ignore[misc]
        self._web = web
        self._secret = secret
        self._headers = headers
        self._on_failure = on_failure
        self._clock = clock
        asked = {parse_choice(stage, STAGES) for stage in stages}
        for stage in STAGES:
            if stage not in asked:
                # What need not be looked at is not asked, and holds nothing back.
                check = "examine" if stage == "message" else stage
                setattr(self, check, getattr(super(), check))

    def mail(self, envelope: Envelope) -> Outcome:
        """Ask about the sender."""
        return self._ask(question("mail", envelope), envelope)

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Ask about a recipient."""
        return self._ask(question("rcpt", envelope, recipient), envelope)

    def data(self, envelope: Envelope) -> Outcome:
        """Ask about the transaction."""
        return self._ask(question("data", envelope), envelope)

    def examine(self, envelope: Envelope, held: HeldMessage) -> Outcome:
        """Ask about the message."""
        return self._ask(question("message", envelope, None, held, header=self._headers), envelope, held)

    async def _ask(self, body: bytes, envelope: Envelope, held: HeldMessage | None = None) -> Reply | None:
        headers = {} if self._secret is None else signed(body, self._secret(), self._clock.seconds())
        try:
            verdict = read_verdict(await self._web.ask(body, headers))
        except ProgramFailed as error:
            self._web.reach.failed(error)
            return self._on_failure
        self._web.reach.worked()
        return _follow(verdict, envelope, held)

    def stopService(self) -> Any:
        """Close the connections."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self._web.stop()


def _follow(verdict: HookVerdict, envelope: Envelope, held: HeldMessage | None) -> Reply | None:
    """Do what a verdict says."""
    for raw in reversed(verdict.fields):
        prepend(envelope, raw) if held is None else held.header.insert(raw)
    if verdict.action == "quarantine":
        envelope.results.put(Quarantine(verdict.text or "a hook has said so"))
    elif verdict.action == "discard":
        discard(envelope) if held is None else held.discard()
    return verdict.reply


def read_secret(content: bytes) -> bytes:
    """
    Read a file with a secret; white space around it is none of it.

    :raises ValueError: if it is too short to be one.
    """
    secret = content.strip()
    if len(secret) < 16:
        raise ValueError("a secret has 16 octets at least")
    return secret


def hook(
    url: str,
    reactor: Any,
    stages: Iterable[str] = ("rcpt",),
    *,
    secret: Callable[[], bytes] | None = None,
    headers: bool = False,
    on_failure: Reply | None = NOT_AVAILABLE,
    connect_timeout: float = 5.0,
    timeout: float = 10.0,
    ca: str = "",
) -> Hook:
    """
    Make the policy.

    :param url: of https, or of http on this host.
    :param stages: see :class:`Hook`, as for *secret*, *headers* and *on_failure*.
    :param timeout: seconds for all of an answer; *connect_timeout* for a connection.
    :param ca: file of the authorities (PEM) to verify with; "" for those of the system.
    :raises ValueError: with a sentence, also if the library is not installed.
    """
    # What stands behind the question mark may be a secret.
    name = f"hook {url.partition('?')[0]}"
    reach = Reach(None, name, clock=reactor)
    web = web_hook(url, reach, reactor, seconds=timeout, connect_timeout=connect_timeout, ca=ca)
    return Hook(web, stages, secret=secret, headers=headers, on_failure=on_failure, clock=reactor, name=name)


def make(arguments: Arguments, reactor: Any) -> Hook:
    """
    Make the policy of ``--policy hook``.

    :raises ValueError: with a sentence.
    """
    path = arguments.text("secret")
    try:
        secret = WatchedFile(path, read_secret).current if path else None
    except ValueError as error:
        raise ValueError(f"secret: {error}") from error
    return hook(
        arguments.value("the URL"),
        reactor,
        arguments.texts("at") or ["rcpt"],
        secret=secret,
        headers=arguments.yes("headers"),
        on_failure=read_failure(arguments),
        connect_timeout=arguments.seconds("connect-timeout", 5.0),
        timeout=arguments.seconds("timeout", 10.0),
        ca=arguments.text("ca"),
    )
