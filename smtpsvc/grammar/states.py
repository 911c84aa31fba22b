"""
The sequence rules: which verb is allowed in which state (RFC 5321 §4.1.4, §4.3.2).

A connection is in exactly one :class:`State`; a verb is allowed in a union of them. The tables
here are the rules: the conversation looks them up, the documentation prints them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply


class State(enum.IntFlag):
    """Where a conversation stands; one bit each, so that a verb names all its states at once."""

    #: Connected; neither EHLO nor HELO was taken.
    CONNECTED = 1
    #: Greeted, no transaction open.
    GREETED = 2
    #: MAIL was taken; no recipient yet.
    MAIL = 4
    #: At least one recipient was taken.
    RCPT = 8
    #: Between the chunks of a BDAT transaction (RFC 3030 §2).
    CHUNKS = 16


ANY: Final = State.CONNECTED | State.GREETED | State.MAIL | State.RCPT | State.CHUNKS
TRANSACTION: Final = State.MAIL | State.RCPT | State.CHUNKS

#: The states in which each core verb is served. Verbs of extensions bring their own.
ALLOWED: Final[Mapping[str, State]] = {
    "EHLO": ANY,
    "HELO": ANY,
    "MAIL": State.GREETED,
    "RCPT": State.MAIL | State.RCPT,
    "DATA": State.RCPT,
    "RSET": ANY,
    "NOOP": ANY,
    "QUIT": ANY,
    "VRFY": ANY,
    "EXPN": ANY,
    "HELP": ANY,
}

#: Verbs of RFC 821, RFC 1985 and RFC 2821 that are known and deliberately not served.
NOT_SERVED: Final = ("SEND", "SOML", "SAML", "TURN", "ETRN")

#: Where a command that was taken leads to; a verb without an entry leaves the state as it is.
#: A message, taken or refused, ends the transaction (RFC 5321 §4.1.1.4). Where no EHLO came yet,
#: RSET changes nothing.
FOLLOWS: Final[Mapping[str, State]] = {
    "EHLO": State.GREETED,
    "HELO": State.GREETED,
    "MAIL": State.MAIL,
    "RCPT": State.RCPT,
    "DATA": State.GREETED,
    "RSET": State.GREETED,
}


def out_of_sequence(allowed: State, state: State, *, lmtp: bool = False) -> Reply:
    """
    Say what is missing when a verb comes in a state that does not allow it.

    :param allowed: the states of the verb.
    :param state: the state of the conversation, not among them.
    :param lmtp: the verbs are those of LMTP (RFC 2033 §4.1).
    :returns: a 503 reply that names the step to take.
    """
    if state is State.CONNECTED:
        return replies.SAY_LHLO if lmtp else replies.SAY_HELLO
    if state is State.CHUNKS:
        return replies.IN_CHUNKS
    if state & TRANSACTION and not allowed & TRANSACTION:
        return replies.NESTED_MAIL
    if state is State.GREETED:
        return replies.SAY_MAIL
    return replies.SAY_RCPT
