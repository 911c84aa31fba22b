"""
Replies: what a server says, as values.

A :class:`Reply` is immutable and knows its two wire forms, with and without the enhanced status
code of RFC 2034. The errors are refusals that travel as exceptions; the constants are the replies
that the server itself gives.
"""

from __future__ import annotations

import re
from typing import Final

#: Longest reply line with its CRLF (RFC 5321 §4.5.3.1.5).
MAX_REPLY_LINE: Final = 512

#: After these the connection ends (RFC 5321 §3.8, RFC 7504 §3).
CLOSING: Final = frozenset({221, 421, 521})

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}", re.ASCII)
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), " ")
del _CONTROLS[ord("\n")]


_put = object.__setattr__


class Reply:
    """
    One reply of the server (RFC 5321 §4.2): a code, a text and an enhanced status code.

    Control characters in the text become spaces and octets that are not ASCII are escaped, so
    that nothing in it can forge a line; a line that would be longer than 512 octets is continued
    on the next. Immutable; equal replies have equal code, text and enhanced code.

    :param code: 200 to 599.
    :param text: what follows the code; several lines are separated by ``"\\n"``.
    :param enhanced: ``"class.subject.detail"`` of RFC 3463, its class that of *code*. Without one,
        a 2xx, 4xx or 5xx reply gets ``X.0.0`` where the client is owed one.
    :raises ValueError: if the code or the enhanced code is none, or they disagree.
    :raises TypeError: if the text is no str.
    """

    __slots__ = ("_extended", "_plain", "closes", "code", "enhanced", "notable", "text")

    #: How the text is encoded.
    charset = "ascii"

    code: int
    text: str
    enhanced: str
    #: True if the connection is closed after this reply.
    closes: bool
    #: True if the server has to take note of it: it refuses, or closes the connection.
    notable: bool
    # The wire forms; not there before they are asked for.
    _plain: bytes
    _extended: bytes

    def __init__(self, code: int, text: str, enhanced: str = "") -> None:
        if not 200 <= code <= 599:
            raise ValueError(f"{code!r} is no reply code")
        if not isinstance(text, str):
            raise TypeError(f"the text of a reply is a str, not {text!r:.80}")
        if enhanced and (not _ENHANCED.fullmatch(enhanced) or int(enhanced[0]) != code // 100):
            raise ValueError(f"{enhanced!r} is no enhanced status code for {code}")
        _put(self, "code", code)
        _put(self, "text", text)
        _put(self, "enhanced", enhanced)
        _put(self, "closes", code in CLOSING)
        _put(self, "notable", code >= 400 or code in CLOSING)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Reply is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Reply is immutable: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        return (self.code, self.text, self.enhanced) == (other.code, other.text, other.enhanced)

    def __hash__(self) -> int:
        return hash((self.code, self.text, self.enhanced))

    def __repr__(self) -> str:
        return f"Reply({self.code}, {self.text!r}, {self.enhanced!r})"

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.enhanced, self.text)))

    def __reduce__(self) -> tuple[type[Reply], tuple[int, str, str]]:
        return Reply, (self.code, self.text, self.enhanced)

    @property
    def positive(self) -> bool:
        """True for 2xx and 3xx: the command was taken."""
        return self.code < 400

    def wire(self, extended: bool) -> bytes:
        """
        Encode the reply; done once for each form and kept.

        :param extended: with the enhanced status code (RFC 2034 §4: on each line of a 2xx, 4xx
            or 5xx reply).
        :returns: one or more lines, each of at most 512 octets with its CRLF.
        """
        try:
            return self._extended if extended else self._plain
        except AttributeError:
            encoded = self._encode(self._enhanced_prefix() if extended else "")
            _put(self, "_extended" if extended else "_plain", encoded)
            return encoded

    def _enhanced_prefix(self) -> str:
        if self.enhanced:
            return self.enhanced + " "
        return "" if self.code // 100 == 3 else f"{self.code // 100}.0.0 "

    def _encode(self, prefix: str) -> bytes:
        width = MAX_REPLY_LINE - len("250-") - len(prefix) - len("\r\n")
        lines = _lines(self.text, width, self.charset)
        marks = [f"{self.code}-{prefix}".encode("ascii")] * (len(lines) - 1) + [f"{self.code} {prefix}".encode("ascii")]
        return b"".join(b"%b%b\r\n" % pair for pair in zip(marks, lines, strict=True))


class UTF8Reply(Reply):
    """A reply in UTF-8: for a client that has said that it takes it, and no other (RFC 6531 §3.7.4.2)."""

    __slots__ = ()

    charset = "utf-8"

    def __reduce__(self) -> tuple[type[Reply], tuple[int, str, str]]:
        return UTF8Reply, (self.code, self.text, self.enhanced)


class LastReply(Reply):
    """A reply after which the connection is closed, whatever its code."""

    __slots__ = ()

    def __init__(self, code: int, text: str, enhanced: str = "") -> None:
        super().__init__(code, text, enhanced)
        _put(self, "closes", True)
        _put(self, "notable", True)

    def __reduce__(self) -> tuple[type[Reply], tuple[int, str, str]]:
        return LastReply, (self.code, self.text, self.enhanced)


class FirstReply(LastReply):
    """A refusal in place of the greeting: with its enhanced code, although no client has asked for that yet."""

    __slots__ = ()

    def wire(self, extended: bool) -> bytes:
        """Encode the reply with its enhanced code."""
        return super().wire(True)

    def __reduce__(self) -> tuple[type[Reply], tuple[int, str, str]]:
        return FirstReply, (self.code, self.text, self.enhanced)


class _Taken(Reply):
    """The reply to a message that was taken: all that is the same for each stands in the class."""

    __slots__ = ()

    code = 250
    enhanced = "2.0.0"
    closes = False
    notable = False

    def wire(self, extended: bool) -> bytes:
        """Encode the reply, which is sent once."""
        return f"250 {'2.0.0 ' if extended else ''}{self.text}\r\n".encode("ascii")


def taken(id: str) -> Reply:
    """
    Make the reply to a message that was taken: ``250 2.0.0 OK, taken as ID``.

    There is one for each message, so its usual wire form is not built the long way (5 µs).

    :param id: of the transaction; made by the server, from letters, digits and hyphens.
    """
    reply = _Taken.__new__(_Taken)
    _put(reply, "text", f"OK, taken as {id}")
    return reply


def _lines(text: str, width: int, charset: str) -> list[bytes]:
    """Encode *text* as lines of at most *width* octets, cut at spaces where there are some."""
    found = []
    for line in text.translate(_CONTROLS).split("\n"):
        shown = line.encode(charset, "backslashreplace")
        while len(shown) > width:
            cut = shown.rfind(b" ", width // 2, width + 1)
            if cut < 0:
                cut = width
                while shown[cut] & 0xC0 == 0x80:
                    # Not between the octets of a character.
                    cut -= 1
            found.append(shown[:cut])
            shown = shown[cut:].lstrip(b" ")
        found.append(shown)
    return found


class SMTPError(Exception):
    """
    A refusal that travels as an exception; :attr:`reply` is what the client is told.

    :param reply: a 4xx or 5xx reply.
    """

    def __init__(self, reply: Reply) -> None:
        if reply.code < 400:
            raise ValueError(f"{reply!r} is no refusal: an error needs a 4xx or 5xx code")
        super().__init__(str(reply))
        self.reply = reply


class PermanentError(SMTPError):
    """A refusal for good: the client should not try the same again (5xx)."""

    def __init__(self, text: str, enhanced: str = "5.0.0", code: int = 550) -> None:
        super().__init__(Reply(code, text, enhanced))


class TemporaryError(SMTPError):
    """A refusal for now: the client may try again later (4xx)."""

    def __init__(self, text: str, enhanced: str = "4.0.0", code: int = 451) -> None:
        super().__init__(Reply(code, text, enhanced))


# What the server itself says. The code and its condition: RFC 5321 §4.2.2 and §4.3.2; the
# enhanced codes: RFC 3463 and the IANA registry that RFC 5248 began.

OK: Final = Reply(250, "OK", "2.0.0")
SENDER_OK: Final = Reply(250, "Sender OK", "2.1.0")
RECIPIENT_OK: Final = Reply(250, "Recipient OK", "2.1.5")
BYE: Final = Reply(221, "Bye", "2.0.0")
CANNOT_VERIFY: Final = Reply(252, "Cannot verify the user; send a message and delivery will be tried", "2.5.0")
EACH_FOLLOWS: Final = Reply(353, "A reply for each recipient follows, then one for the message")
START_MAIL: Final = Reply(354, "End data with <CR><LF>.<CR><LF>")

SHUTTING_DOWN: Final = Reply(421, "Service is shutting down, try again later", "4.3.2")
TIMED_OUT: Final = Reply(421, "Timed out waiting for the client", "4.4.2")
NO_SESSION: Final = Reply(421, "Service not available, try again later", "4.3.0")
TOO_BUSY: Final = FirstReply(421, "Too many connections, try again later", "4.3.2")
TOO_MANY_CONNECTIONS: Final = FirstReply(421, "Too many connections from your network, try again later", "4.7.0")
TOO_MANY_ERRORS: Final = Reply(421, "Too many errors, closing", "4.7.0")
TOO_MANY_LOGINS: Final = Reply(421, "Too many failed logins, try again later", "4.7.0")
LOCAL_ERROR: Final = Reply(451, "Local error in processing, try again later", "4.3.0")
HOOK_TIMED_OUT: Final = Reply(451, "Processing took too long, try again later", "4.3.0")
RECIPIENT_TIMED_OUT: Final = Reply(420, "Delivery took too long, try again later", "4.4.7")
TOO_MANY_RECIPIENTS: Final = Reply(452, "Too many recipients", "4.5.3")
ONE_RECIPIENT_EACH: Final = Reply(452, "One recipient a message, send the others their own", "4.5.3")

LINE_TOO_LONG: Final = Reply(500, "Line too long", "5.5.2")
BAD_LINE_END: Final = Reply(500, "Bare CR, LF or NUL in a command; lines must end in CRLF", "5.5.2")
UNKNOWN_COMMAND: Final = Reply(500, "Command not recognized", "5.5.1")
NO_ARGUMENT: Final = Reply(501, "This command takes no argument", "5.5.4")
NEED_NAME: Final = Reply(501, "A name of 1 to 255 octets without control characters is needed", "5.5.4")
NEED_ARGUMENT: Final = Reply(501, "An argument is needed", "5.5.4")
BAD_ARGUMENT: Final = Reply(501, "Control characters are not allowed in an argument", "5.5.4")
NOT_IMPLEMENTED: Final = Reply(502, "Command not implemented", "5.5.1")
NO_EXPANSION: Final = Reply(502, "Expansion of lists is not offered", "5.5.1")
SAY_HELLO: Final = Reply(503, "Send EHLO or HELO first", "5.5.1")
SAY_LHLO: Final = Reply(503, "Send LHLO first", "5.5.1")
SAY_MAIL: Final = Reply(503, "Send MAIL first", "5.5.1")
SAY_RCPT: Final = Reply(503, "No recipient was accepted, send RCPT first", "5.5.1")
NESTED_MAIL: Final = Reply(503, "A transaction is open already, send RSET first", "5.5.1")
IN_CHUNKS: Final = Reply(503, "A message is open: end it with BDAT LAST, or send RSET", "5.5.1")
BINARY_NEEDS_BDAT: Final = Reply(503, "BODY=BINARYMIME cannot come by DATA, use BDAT", "5.5.1")
NO_SUCH_USER: Final = Reply(550, "No such user here", "5.1.1")
NOT_TRUSTED: Final = Reply(550, "Only trusted proxies may speak for others", "5.7.0")
SENDER_NOT_ASCII: Final = Reply(550, "A sender that is not ASCII needs the SMTPUTF8 parameter", "5.6.7")
RECIPIENT_NOT_ASCII: Final = Reply(553, "A recipient that is not ASCII needs the SMTPUTF8 parameter of MAIL", "5.6.7")
RELAYING_DENIED: Final = Reply(550, "Mail for that domain is not taken here", "5.7.1")
EARLY: Final = FirstReply(554, "You spoke before you were greeted", "5.5.0")
ONLY_SMTP: Final = LastReply(554, "This is a mail server and speaks SMTP only", "5.5.1")
TOO_MANY_HOPS: Final = Reply(554, "Too many Received fields: the message is in a loop", "5.4.6")
HEADER_TOO_BIG: Final = Reply(552, "Header of the message is larger than the limit", "5.3.4")
TEXT_LINE_TOO_LONG: Final = Reply(554, "A line of the message is longer than the limit", "5.6.0")
TOO_BIG: Final = Reply(552, "Message is larger than the limit", "5.3.4")
PARAMETERS_NEED_EHLO: Final = Reply(555, "Parameters need EHLO", "5.5.4")
UNKNOWN_PARAMETER: Final = Reply(555, "A parameter is not recognized or not offered", "5.5.4")
