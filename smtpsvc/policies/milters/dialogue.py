"""
What is said to a filter, stage by stage, and what it answers.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, TypeAlias

from kilter.protocol import messages
from kilter.protocol.core import UPDATE_FLAG_MAP
from kilter.protocol.messages import ActionFlags, ProtocolFlags, Stage
from twisted.internet.address import UNIXAddress

from smtpsvc.grammar.addresses import is_domain
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown
from smtpsvc.message.fields import Field
from smtpsvc.policies.milters.macros import STAGES
from smtpsvc.policies.milters.wire import MilterConnection, Octets, Shutdown, macro, packed, text
from smtpsvc.policies.reaching import ProgramFailed
from smtpsvc.settings import MIB
from smtpsvc.values import Peer, Recipient

VERSION: Final = 6
#: Octets of a body in one message, as libmilter has it.
CHUNK: Final = 65535
#: Changes that a filter may ask for of one message.
MOST_EDITS: Final = 1000

_ACTIONS: Final = (
    ActionFlags.ADD_HEADERS
    | ActionFlags.CHANGE_HEADERS
    | ActionFlags.CHANGE_BODY
    | ActionFlags.ADD_RECIPIENT
    | ActionFlags.ADD_RECIPIENT_PAR
    | ActionFlags.DELETE_RECIPIENT
    | ActionFlags.QUARANTINE
    | ActionFlags.CHANGE_FROM
    | ActionFlags.SETSYMLIST
)
_NO: Final = {
    "connect": ProtocolFlags.NO_CONNECT,
    "helo": ProtocolFlags.NO_HELO,
    "mail": ProtocolFlags.NO_SENDER,
    "rcpt": ProtocolFlags.NO_RECIPIENT,
    "data": ProtocolFlags.NO_DATA,
    "header": ProtocolFlags.NO_HEADERS,
    "eoh": ProtocolFlags.NO_END_OF_HEADERS,
    "body": ProtocolFlags.NO_BODY,
}
_NO_ANSWER: Final = {
    "connect": ProtocolFlags.NR_CONNECT,
    "helo": ProtocolFlags.NR_HELO,
    "mail": ProtocolFlags.NR_SENDER,
    "rcpt": ProtocolFlags.NR_RECIPIENT,
    "data": ProtocolFlags.NR_DATA,
    "header": ProtocolFlags.NR_HEADER,
    "eoh": ProtocolFlags.NR_END_OF_HEADERS,
    "body": ProtocolFlags.NR_BODY,
}
_OPTIONS: Final = ProtocolFlags(
    sum({*_NO.values(), *_NO_ANSWER.values()})
    | ProtocolFlags.NO_UNKNOWN
    | ProtocolFlags.NR_UNKNOWN
    | ProtocolFlags.SKIP
    | ProtocolFlags.HEADER_LEADING_SPACE
)
_WANTED: Final = {
    Stage.CONNECT: "connect",
    Stage.HELO: "helo",
    Stage.ENVELOPE_FROM: "mail",
    Stage.ENVELOPE_RECIPIENT: "rcpt",
    Stage.DATA: "data",
    Stage.END_MESSAGE: "eom",
    Stage.END_HEADERS: "eoh",
}
_EDITS: Final = (
    messages.AddHeader,
    messages.ChangeHeader,
    messages.ReplaceBody,
    messages.AddRecipient,
    messages.AddRecipientPar,
    messages.RemoveRecipient,
    messages.ChangeSender,
    messages.Quarantine,
)
_LINE = re.compile(rb"([45]\d\d)(?:[ -](?:([45]\.\d{1,3}\.\d{1,3})(?:[ ]|\Z))?(.*))?", re.DOTALL)
_LONGEST_TEXT: Final = 2000
_LONGEST_VALUE: Final = 60_000
_LONGEST_NAME: Final = 2000

#: What the client hears where a filter gives no words of its own.
REJECTED: Final = Reply(550, "A filter of this server has refused it", "5.7.1")
NOT_NOW: Final = Reply(451, "A filter of this server has refused it for now, try again later", "4.7.1")
GO_AWAY: Final = Reply(421, "Service not available, try again later", "4.7.0")


class Verdict(enum.Enum):
    """What a filter says beside refusals."""

    CONTINUE = enum.auto()
    ACCEPT = enum.auto()
    DISCARD = enum.auto()
    #: Enough of the body.
    SKIP = enum.auto()


#: A verdict, or a refusal.
Answer: TypeAlias = Verdict | Reply


@dataclass(frozen=True, slots=True)
class Waits:
    """
    How long a filter may take, in seconds.

    :param answer: for each answer; *progress* begins it anew.
    :param end: for the answer to the end of a message.
    """

    answer: float = 30.0
    end: float = 240.0


@dataclass(frozen=True, slots=True)
class Content:
    """
    A message, for a filter.

    :param fields: of the header that it is to see.
    :param read: gives the next piece of the body, or nothing at its end.
    :param size: of it all.
    """

    fields: Iterable[Field]
    read: Callable[[], Awaitable[bytes]]
    size: int


class Dialogue:
    """
    One client's dialogue with a filter, on a connection that has negotiated.

    Each stage gives an :data:`Answer`, and raises :class:`~smtpsvc.policies.reaching.ProgramFailed`.
    """

    def __init__(self, connection: MilterConnection, options: messages.Negotiate, waits: Waits) -> None:
        self._connection = connection
        self._waits = waits
        self._flags = options.protocol_flags
        self._actions = options.action_flags
        self._version = options.version
        self._open = False
        self._wanted = {_WANTED[stage]: tuple(names) for stage, names in options.macros.items()}

    @property
    def leading_space(self) -> bool:
        """True if values of headers have their blank behind the colon, both ways."""
        return bool(self._flags & ProtocolFlags.HEADER_LEADING_SPACE)

    def hears(self, stage: str) -> bool:
        """Say whether the filter is told of a stage."""
        return not self._flags & _NO[stage]

    @property
    def usable(self) -> bool:
        """False once the connection is lost."""
        return self._connection.usable

    async def connect(self, peer: Peer, macros: Mapping[str, str]) -> Answer:
        """A client has connected."""
        address: object = peer.address
        name = peer.name if is_domain(peer.name) and peer.name.isascii() else f"[{peer.host}]"
        if peer.host:
            message = messages.Connect(name, ip_address(peer.host.partition("%")[0]), peer.port)
        elif isinstance(address, UNIXAddress):
            message = messages.Connect("localhost", Path(_path(address)))
        else:
            message = messages.Connect("localhost")
        return await self._stage("connect", macros, message)

    async def helo(self, name: str, macros: Mapping[str, str]) -> Answer:
        """It introduces itself."""
        return await self._stage("helo", macros, Octets(b"H", text(name)))

    async def mail(self, sender: str, params: Mapping[str, object], macros: Mapping[str, str]) -> Answer:
        """It opens a transaction."""
        self._open = True
        return await self._stage("mail", macros, Octets(b"M", text(f"<{sender}>") + _params(params)))

    async def rcpt(self, recipient: Recipient, macros: Mapping[str, str]) -> Answer:
        """It names a recipient."""
        content = text(f"<{recipient}>") + _params(recipient.params)
        return await self._stage("rcpt", macros, Octets(b"R", content))

    async def data(self, macros: Mapping[str, str]) -> Answer:
        """The content is about to come."""
        if self._version < 4:
            return Verdict.CONTINUE
        return await self._stage("data", macros, messages.Data())

    async def message(self, content: Content, macros: Mapping[str, str]) -> tuple[Answer, list[messages.Message]]:
        """
        The content, from its header to its end.

        :returns: the answer, and what is to be changed if that is no refusal.
        """
        answer = await self._content(content, macros)
        if answer is not Verdict.CONTINUE:
            return answer, []
        self._connection.send(*self._macros("eom", macros), messages.EndOfMessage(b""))
        edits: list[messages.Message] = []
        # A body that is replaced may come in one message.
        longest = room = 2 * content.size + MIB
        while True:
            message = await self._connection.receive(self._waits.end, longest)
            if not isinstance(message, _EDITS):
                self._open = False
                return self._answer(message), edits
            if not self._actions & UPDATE_FLAG_MAP[message.ident]:
                raise ProgramFailed(f"it has not asked for the right to {type(message).__name__}")
            room -= len(packed(message))
            if room < 0 or len(edits) >= MOST_EDITS:
                raise ProgramFailed("it wants to change too much")
            edits.append(message)

    async def _content(self, content: Content, macros: Mapping[str, str]) -> Answer:
        if not self._flags & _NO["header"]:
            for field in content.fields:
                value = _value(field, lead=self.leading_space)
                answer = await self._stage("header", {}, messages.Header(field.name[:_LONGEST_NAME], value))
                if answer is not Verdict.CONTINUE:
                    return answer
        answer = await self._stage("eoh", macros, messages.EndOfHeaders())
        if answer is not Verdict.CONTINUE or self._flags & _NO["body"]:
            return answer
        while piece := await content.read():
            for start in range(0, len(piece), CHUNK):
                answer = await self._stage("body", {}, Octets(b"B", piece[start : start + CHUNK]))
                if answer is Verdict.SKIP and self._flags & ProtocolFlags.SKIP:
                    return Verdict.CONTINUE
                if answer is not Verdict.CONTINUE:
                    return answer
        return Verdict.CONTINUE

    async def _stage(self, stage: str, macros: Mapping[str, str], message: messages.Message) -> Answer:
        if self._flags & _NO[stage]:
            return Verdict.CONTINUE
        self._connection.send(*self._macros(stage, macros), message)
        if self._flags & _NO_ANSWER[stage]:
            await self._connection.drained(self._waits.answer)
            return Verdict.CONTINUE
        answer = self._answer(await self._connection.receive(self._waits.answer))
        if answer is Verdict.SKIP and stage != "body":
            raise ProgramFailed(f"it has skipped at {stage}")
        return answer

    def _macros(self, stage: str, macros: Mapping[str, str]) -> list[messages.Message]:
        """Give what is sent before a stage's command."""
        if stage not in STAGES:
            return []
        letter, usual = STAGES[stage]
        names = self._wanted.get(stage, usual)
        values = {each: value for each in names if (value := macros.get(each) or macros.get(each.strip("{}"), ""))}
        return [macro(letter, values)] if values else []

    def _answer(self, message: messages.Message) -> Answer:
        match message:
            case messages.Continue():
                return Verdict.CONTINUE
            case messages.Accept():
                return Verdict.ACCEPT
            case messages.Discard():
                return Verdict.DISCARD
            case messages.Skip():
                return Verdict.SKIP
            case messages.Reject():
                return REJECTED
            case messages.TemporaryFailure():
                return NOT_NOW
            case Shutdown():
                return GO_AWAY
            case messages.ReplyCode():
                return read_reply(bytes(message.content))
        raise ProgramFailed(f"it has answered {type(message).__name__}")

    def abort(self) -> None:
        """
        End the open transaction, if there is one.

        :raises ProgramFailed: if that cannot be said.
        """
        if self._open:
            self._open = False
            self._connection.send(messages.Abort())

    def close(self) -> None:
        """End it all."""
        self._connection.close(messages.Close())

    def renew(self) -> None:
        """End the client's part; another client's may begin (SMFIC_QUIT_NC)."""
        self._connection.send(Octets(b"K"))

    def drop(self) -> None:
        """End it all at once, since nobody knows what the filter will say next."""
        self._connection.drop()


async def negotiate(connection: MilterConnection, waits: Waits) -> Dialogue:
    """
    Agree with a filter on what it is told and may do.

    :raises ProgramFailed: if that fails.
    """
    connection.send(messages.Negotiate(VERSION, _ACTIONS, _OPTIONS))
    options = await connection.receive(waits.answer)
    if not isinstance(options, messages.Negotiate):
        raise ProgramFailed(f"it has answered {type(options).__name__} to the offer")
    if not 2 <= options.version <= VERSION:
        raise ProgramFailed(f"it speaks version {options.version} of the protocol")
    if options.protocol_flags & ~_OPTIONS or options.action_flags & ~_ACTIONS:
        raise ProgramFailed("it wants what was not offered")
    return Dialogue(connection, options, waits)


def read_reply(content: bytes) -> Reply:
    """
    Read a reply that a filter has made.

    :param content: lines of code, enhanced code and text; percent signs are doubled, as libmilter has it.
    :raises ProgramFailed: if it is no refusal.
    """
    lines = content.rstrip(b"\0")[:_LONGEST_TEXT].replace(b"%%", b"%").splitlines()
    found = [match for line in lines if (match := _LINE.fullmatch(line)) is not None]
    if not found or len(found) < len(lines):
        raise ProgramFailed(f"it has replied {shown(content[:40])!r}, which is no refusal")
    code = int(found[0][1])
    enhanced = (found[0][2] or b"").decode()
    words = "\n".join(shown(match[3] or b"") for match in found)
    return Reply(code, words or REJECTED.text, enhanced if enhanced[:1] == str(code)[0] else f"{code // 100}.7.1")


def _value(field: Field, *, lead: bool) -> bytes:
    """Give the value of a field, cut where it is long: its lines end in LF, and none has a NUL."""
    value = field.raw.partition(b":")[2].replace(b"\r\n", b"\n").removesuffix(b"\n").replace(b"\0", b"")
    # libmilter breaks off at a longer message, and who knows that could keep a filter from seeing his mail.
    return (value if lead else value.removeprefix(b" "))[:_LONGEST_VALUE]


def _params(params: Mapping[str, object]) -> bytes:
    """Write parameters of MAIL or RCPT, as far as they are plain."""
    written = []
    for name, value in params.items():
        plain = value.value if isinstance(value, enum.Enum) else value
        if isinstance(plain, bool) or plain is None:
            written.append(name)
        elif isinstance(plain, (int, str)):
            written.append(f"{name}={plain}")
    return b"".join(map(text, written))


def _path(address: UNIXAddress) -> str:
    return (address.name or b"unnamed").decode("utf-8", "backslashreplace")
