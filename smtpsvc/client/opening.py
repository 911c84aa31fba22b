"""
The beginning of a connection: greeting, EHLO, TLS, XCLIENT and login, step by step.
"""

from __future__ import annotations

import binascii
from typing import Final

from smtpsvc.client.capabilities import Capabilities, parse_capabilities
from smtpsvc.client.commands import attributes, hello
from smtpsvc.client.connection import Connection
from smtpsvc.client.errors import (
    ClientError,
    LoginFailed,
    Refused,
    ServerMisbehaved,
    Stage,
    TimedOut,
    TLSFailed,
    Unsupported,
)
from smtpsvc.client.options import TLS, own_name
from smtpsvc.client.sasl import MECHANISMS, Context, SASLProblem, Steps, choose
from smtpsvc.client.security import problem
from smtpsvc.grammar.replies import Reply

#: RFC 4954 §4: a longer initial response goes out when it is asked for.
_MAX_INITIAL: Final = 512 - 2
#: Responses of one login; no mechanism has more than three.
_MAX_RESPONSES: Final = 10
#: The mechanism is not to be had, whatever the list says: another may do (RFC 4954 §6).
_NEXT: Final = frozenset({504, 534, 538})
#: The server knows no EHLO (RFC 5321 §3.2).
_NO_EHLO: Final = frozenset({500, 501, 502, 504})


async def open_dialogue(connection: Connection) -> None:
    """
    Do all that comes before the first message.

    :raises ClientError: if it fails; the connection is to be closed then.
    """
    options = connection.options
    if options.tls is TLS.IMPLICIT:
        await _begin_tls(connection)
    greeting = await connection.dialogue.greeting()
    connection.greeting = greeting
    if not 200 <= greeting.code < 300:
        raise Refused("the server does not want us", Stage.GREETING, greeting)
    await introduce(connection)
    if options.tls in (TLS.REQUIRED, TLS.OPPORTUNISTIC):
        await _start_tls(connection)
    if options.xclient:
        await _xclient(connection)
    if options.login is not None:
        await log_in(connection)


async def introduce(connection: Connection) -> None:
    """
    Say EHLO, and learn what the server offers; HELO if it knows no other.

    :raises ClientError: if it takes neither.
    """
    options = connection.options
    name = options.hostname or own_name()
    reply = await connection.dialogue.command(hello("LHLO" if options.lmtp else "EHLO", name), Stage.HELLO)
    if 200 <= reply.code < 300:
        connection.capabilities = parse_capabilities(reply)
        return
    if options.lmtp or reply.code not in _NO_EHLO:
        raise _refusal(reply, "the server refused our introduction")
    first = reply
    reply = await connection.dialogue.command(hello("HELO", name), Stage.HELLO)
    if not 200 <= reply.code < 300:
        raise _refusal(reply if reply.code >= 400 else first, "the server refused our introduction")
    connection.capabilities = Capabilities(name=reply.text.partition(" ")[0], extended=False)


def _refusal(reply: Reply, text: str, stage: Stage = Stage.HELLO) -> Refused | ServerMisbehaved:
    if reply.code < 400:
        return ServerMisbehaved("the reply is one to another command", stage, reply)
    return Refused(text, stage, reply)


async def _start_tls(connection: Connection) -> None:
    options = connection.options
    optional = options.tls is TLS.OPPORTUNISTIC
    if "STARTTLS" not in connection.capabilities:
        if optional:
            return
        raise TLSFailed("TLS is required, and the server does not offer it", Stage.STARTTLS)
    reply = await connection.dialogue.command(b"STARTTLS\r\n", Stage.STARTTLS)
    if connection.dialogue.surplus:
        # What stands behind the 220 came in clear, and would be taken for what the server says under TLS.
        raise TLSFailed("the server (or somebody in between) spoke before TLS began", Stage.STARTTLS, reply)
    if not 200 <= reply.code < 300:
        if reply.code < 400:
            raise _refusal(reply, "", Stage.STARTTLS)
        if optional and connection.dialogue.farewell is None:
            return
        raise TLSFailed("the server refused to begin TLS", Stage.STARTTLS, reply)
    await _begin_tls(connection)
    # RFC 3207 §4.2: what was said before counts no more.
    connection.capabilities = Capabilities()
    await introduce(connection)


async def _begin_tls(connection: Connection) -> None:
    try:
        await connection.dialogue.handshake()
    except ClientError as error:
        if isinstance(error, TimedOut):
            raise
        raise TLSFailed(f"TLS could not begin: {problem(error.__cause__)}", Stage.TLS) from error


async def _xclient(connection: Connection) -> None:
    offered = connection.capabilities.attributes("XCLIENT")
    given = connection.options.xclient
    if not offered:
        raise Unsupported("the server does not take XCLIENT from us", Stage.COMMAND)
    command = attributes("XCLIENT", given, offered, [])
    if command is None:
        return
    reply = await connection.dialogue.command(command, Stage.COMMAND)
    if not 200 <= reply.code < 300:
        raise Refused("the server refused XCLIENT", Stage.COMMAND, reply)
    await introduce(connection)


async def log_in(connection: Connection) -> None:
    """
    Log in by the best mechanism that may be used.

    :raises LoginFailed: if none may, or the server says no.
    """
    login = connection.options.login
    assert login is not None
    context = Context(connection.host, connection.binding(), connection.capabilities.auth)
    names, why = choose(login, context, trusted=connection.trusted)
    if not names:
        raise LoginFailed(f"cannot log in: {why}", Stage.AUTH)
    for name in names:
        reply = await _exchange(connection, name, context)
        if reply.code < 300:
            connection.mechanism = name
            return
        if reply.code not in _NEXT or name == names[-1]:
            raise LoginFailed(f"the server refused the login by {name}", Stage.AUTH, reply)


async def _exchange(connection: Connection, name: str, context: Context) -> Reply:
    """Go through a login; the reply that ends it is given."""
    dialogue, mechanism = connection.dialogue, MECHANISMS[name]
    assert connection.options.login is not None
    try:
        steps: Steps = mechanism.exchange(connection.options.login, context)
        response = next(steps)
        command = f"AUTH {name}".encode()
        sent = 0
        if response is not None:
            initial = binascii.b2a_base64(response, newline=False) or b"="
            if len(command) + 1 + len(initial) <= _MAX_INITIAL:
                command += b" " + initial
                response = None
                sent = 1
        reply = await dialogue.command(command + b"\r\n", Stage.AUTH)
        while reply.code == 334 and sent < _MAX_RESPONSES:
            if response is None:
                response = steps.send(binascii.a2b_base64(reply.text.encode(), strict_mode=True))
            sent += 1
            reply = await dialogue.command(binascii.b2a_base64(response or b"", newline=False) + b"\r\n", Stage.AUTH)
            response = None
    except StopIteration:
        # It asks for more than there is; RFC 4954 §4: a star ends it.
        return await dialogue.command(b"*\r\n", Stage.AUTH)
    except (SASLProblem, binascii.Error, UnicodeError) as error:
        raise LoginFailed(f"the login by {name} was given up: {error}", Stage.AUTH) from error
    if reply.code < 300 and sent < mechanism.responses:
        raise LoginFailed(f"the server took the login by {name} without a proof of its own", Stage.AUTH, reply)
    if 300 <= reply.code < 400:
        raise ServerMisbehaved("the reply is one to another command", Stage.AUTH, reply)
    return reply
