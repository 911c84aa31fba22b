"""Tests of smtpsvc.extensions: our own, and those of somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.extensions import Extension, defaults
from smtpsvc.extensions.chunking import BinaryMIME, Chunking
from smtpsvc.extensions.eightbit import EightBitMIME
from smtpsvc.extensions.flags import EnhancedStatusCodes, Pipelining
from smtpsvc.extensions.size import Size
from smtpsvc.extensions.smtputf8 import SMTPUTF8
from smtpsvc.grammar import replies
from smtpsvc.grammar.commands import parse_nothing, parse_optional_text
from smtpsvc.grammar.params import number
from smtpsvc.grammar.replies import PermanentError, Reply
from smtpsvc.grammar.states import State
from smtpsvc.interfaces import IConversation, IExtension
from smtpsvc.server.verbs import Verb
from smtpsvc.settings import MIB, Role
from smtpsvc.testing import ScriptedBackend, Wire
from smtpsvc.values import Body, Envelope, Recipient
from tests.support import basics, connect, settings_with


def keywords(wire: Wire) -> list[str]:
    """Say EHLO and give the lines behind the host name."""
    return wire.say("EHLO client.example").last_reply.text.splitlines()[1:]


class DefaultsTests(SynchronousTestCase):
    def test_provide(self) -> None:
        """Each of ours provides IExtension."""
        for extension in defaults():
            with self.subTest(keyword=extension.keyword):
                self.assertTrue(verifyObject(IExtension, extension))

    def test_basics(self) -> None:
        """PIPELINING, SIZE, 8BITMIME, SMTPUTF8 and ENHANCEDSTATUSCODES come first, in every role."""
        kinds = [Pipelining, Size, EightBitMIME, SMTPUTF8, EnhancedStatusCodes]
        first = defaults()[:5]
        self.assertEqual([type(extension) for extension in first], kinds)
        self.assertEqual({extension.roles for extension in first}, {frozenset(Role)})

    def test_none(self) -> None:
        """Without extensions EHLO announces nothing, and no parameter is known."""
        wire = connect(extensions=[])
        self.assertEqual(keywords(wire), [])
        self.assertEqual(wire.forget().say("MAIL FROM:<> SIZE=1", "MAIL FROM:<> BODY=7BIT").codes, [555, 555])

    def test_order(self) -> None:
        """EHLO announces in the order in which they were given."""
        self.assertEqual(keywords(connect(extensions=[SMTPUTF8(), Pipelining()])), ["SMTPUTF8", "PIPELINING"])


class SizeTests(SynchronousTestCase):
    def declare(self, size: str, limit: int = MIB) -> Reply:
        """Declare a size."""
        wire = connect(settings=settings_with(message_size=limit)).greeted()
        return wire.say(f"MAIL FROM:<a@x.example> SIZE={size}").last_reply

    def test_announced(self) -> None:
        """The limit is announced in octets, and no limit as 0 (RFC 1870 §4)."""
        for limit in (1, 1000, 32 * MIB, 0):
            with self.subTest(limit=limit):
                wire = connect(settings=settings_with(message_size=limit))
                self.assertIn(f"SIZE {limit}", keywords(wire))

    def test_declared(self) -> None:
        """A declared size up to the limit is taken, one more is 552 5.3.4 (RFC 1870 §6.1)."""
        for size in (0, 1, 999, 1000):
            self.assertEqual(self.declare(str(size), 1000), replies.SENDER_OK)
        for size in (1001, 10**19):
            self.assertEqual(self.declare(str(size), 1000), replies.TOO_BIG)
        self.assertEqual((replies.TOO_BIG.code, replies.TOO_BIG.enhanced), (552, "5.3.4"))

    def test_no_limit(self) -> None:
        """Without a limit any size may be declared."""
        self.assertEqual(self.declare("9" * 20, 0), replies.SENDER_OK)

    def test_syntax(self) -> None:
        """A size is 1 to 20 decimal digits; all else is 501 5.5.4."""
        self.assertEqual(self.declare("0" * 20), replies.SENDER_OK)
        for size in ("0" * 21, "", "-1", "+1", "1.0", "1K", "0x10", "1_0", " 1", "=1"):
            with self.subTest(size=size):
                reply = self.declare(size)
                self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"))

    def test_without_value(self) -> None:
        """SIZE without a value is 501 5.5.4."""
        self.assertEqual(connect().greeted().say("MAIL FROM:<> SIZE").last_reply.code, 501)

    def test_hook_not_asked(self) -> None:
        """A session is not asked about what is too large, and no transaction is open."""
        backend = ScriptedBackend()
        wire = connect(backend, settings_with(message_size=10)).greeted()
        self.assertEqual(wire.say("MAIL FROM:<> SIZE=11", "RCPT TO:<b@y.example>").codes, [552, 503])
        self.assertNotIn("mail", backend.hooks)

    def test_of_backend(self) -> None:
        """The limit is that of the backend where that is lower, or where the settings have none."""
        for own, of_backend, announced in ((1000, 10, 10), (10, 1000, 10), (0, 10, 10), (10, None, 10)):
            with self.subTest(own=own, of_backend=of_backend):
                backend = ScriptedBackend()
                backend.max_message_size = of_backend
                self.assertIn(f"SIZE {announced}", keywords(connect(backend, settings_with(message_size=own))))

    def test_backend_lifts_no_limit(self) -> None:
        """A backend whose limit is 0 does not lift that of the settings."""
        backend = ScriptedBackend()
        backend.max_message_size = 0
        self.assertIn("SIZE 10", keywords(connect(backend, settings_with(message_size=10))))


class EightBitTests(SynchronousTestCase):
    def body(self, value: str, **options: Any) -> tuple[Reply, ScriptedBackend]:
        """Declare a body."""
        backend = ScriptedBackend()
        return connect(backend, **options).greeted().say(f"MAIL FROM:<> BODY={value}").last_reply, backend

    def test_declared(self) -> None:
        """7BIT and 8BITMIME are taken in any case, and the session sees which (RFC 6152 §2)."""
        eight = Body.EIGHT_BIT_MIME
        for value, body in (("7BIT", Body.SEVEN_BIT), ("8BITMIME", eight), ("8bitMime", eight)):
            with self.subTest(value=value):
                reply, backend = self.body(value)
                self.assertEqual(reply, replies.SENDER_OK)
                ((envelope,),) = backend.called("mail")
                self.assertIs(envelope.mail_params["BODY"], body)

    def test_wrong(self) -> None:
        """Any other word is 501 5.5.4."""
        for value in ("8BIT", "", "BASE64", "7BIT8BITMIME"):
            with self.subTest(value=value):
                reply, _ = self.body(value)
                self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"))

    def test_binary(self) -> None:
        """BINARYMIME is 555 5.5.4 unless it is offered, and CHUNKING to send it by (RFC 3030 §3)."""
        for more in ([], [Chunking()], [BinaryMIME()]):
            self.assertEqual(self.body("BINARYMIME", extensions=[*basics(), *more])[0], replies.UNKNOWN_PARAMETER)
        both = [*basics(), Chunking(), BinaryMIME()]
        self.assertEqual(self.body("BINARYMIME", extensions=both)[0], replies.SENDER_OK)


class EnhancedStatusCodesTests(SynchronousTestCase):
    LINES = ("NOOP", "FOO", "MAIL FROM:<>", "MAIL FROM:<>", "RCPT TO:<>", "RCPT TO:<b@y.example>", "HELP", "VRFY x")

    def test_after_ehlo(self) -> None:
        """After EHLO every line of every 2xx, 4xx and 5xx reply has an enhanced code of its class (RFC 2034 §4)."""
        wire = connect(ScriptedBackend(rcpt=Reply(450, "a\nb"))).greeted().say(*self.LINES, "QUIT")
        self.assertEqual({code // 100 for code in wire.codes}, {2, 4, 5})
        for line in wire.output.splitlines():
            self.assertRegex(line, rb"\A([245])\d\d[ -]\1\.\d+\.\d+ ")

    def test_not_354(self) -> None:
        """The 354 has none."""
        wire = connect().greeted().say("MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA")
        self.assertEqual(wire.output.splitlines()[-1], b"354 End data with <CR><LF>.<CR><LF>")

    def test_hello_replies(self) -> None:
        """The greeting and the replies to EHLO and HELO have none, refusals too."""
        backend = ScriptedBackend(helo=[None, None, PermanentError("No", "5.7.1"), None])
        wire = connect(backend).say("EHLO x", "EHLO x", "EHLO x", "EHLO \x01", "HELO", "EHLO x")
        self.assertEqual(wire.codes, [250, 250, 550, 501, 501, 250])
        for line in wire.transport.value().splitlines():
            self.assertNotRegex(line, rb"\A\d\d\d[ -]\d\.\d+\.\d+")

    def test_not_offered(self) -> None:
        """Without the extension no reply has any."""
        wire = connect(extensions=[Pipelining()]).greeted().say(*self.LINES)
        self.assertEqual({reply.enhanced for reply in wire.replies}, {""})


class Release(Extension):
    """Somebody's extension: parameters of MAIL and RCPT, a verb, and an argument in EHLO."""

    keyword = "XRELEASE"
    roles = frozenset({Role.SMTP})
    mail_params = {"HOLDFOR": number(9), "HOLDUNTIL": number(9)}
    rcpt_params = {"XR": lambda value: value}

    def __init__(self, answer: Any = None) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answer = answer
        self.verbs: Mapping[str, Any] = {
            "XPING": Verb(State.GREETED | State.MAIL, parse_optional_text, lambda conversation, text: self.answer)
        }

    def advertise(self, conversation: IConversation) -> str | None:
        """Show an argument."""
        self.asked.append(("advertise", conversation.extended))
        return "604800"

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Refuse a hold of 0."""
        self.asked.append(("mail", dict(envelope.mail_params)))
        return Reply(554, "Now is now", "5.6.0") if envelope.mail_params.get("HOLDFOR") == 0 else None

    def rcpt(self, conversation: IConversation, envelope: Envelope, recipient: Recipient) -> Reply | None:
        """Refuse XR=no."""
        self.asked.append(("rcpt", str(recipient), dict(recipient.params)))
        return Reply(554, "No", "5.6.0") if recipient.params["XR"] == "no" else None


class StrangerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.extension = Release()
        self.backend = ScriptedBackend()
        self.wire = self.with_(self.extension)

    def with_(self, *extensions: Extension, **options: Any) -> Wire:
        """Connect to a server that has our extensions and these."""
        return connect(self.backend, extensions=[*basics(), *extensions], **options).greeted()

    def test_announced(self) -> None:
        """It is announced with its argument, behind those before it."""
        self.assertEqual(keywords(self.wire)[-1], "XRELEASE 604800")

    def test_silent(self) -> None:
        """It is not announced if it says None, and its parameters are taken all the same."""
        self.extension.advertise = lambda conversation: None  # type: ignore[method-assign]
        wire = self.with_(self.extension)
        self.assertEqual(len(keywords(wire)), len(basics()))
        self.assertEqual(wire.say("MAIL FROM:<> HOLDFOR=1").last_reply, replies.SENDER_OK)

    def test_mail_parameter(self) -> None:
        """Its parameter reaches its check and the session's hook, parsed."""
        self.wire.say("MAIL FROM:<> HoldFor=60 SIZE=1")
        self.assertEqual(self.extension.asked[1:], [("mail", {"HOLDFOR": 60, "SIZE": 1})])
        self.assertEqual(self.backend.called("mail")[0][0].mail_params["HOLDFOR"], 60)

    def test_asked_once(self) -> None:
        """It is asked once about a MAIL that has two of its parameters."""
        self.wire.say("MAIL FROM:<> HOLDFOR=60 HOLDUNTIL=61")
        self.assertEqual([asked[0] for asked in self.extension.asked[1:]], ["mail"])

    def test_not_asked(self) -> None:
        """It is not asked about commands without its parameters."""
        self.wire.say("MAIL FROM:<> SIZE=1", "RCPT TO:<b@y.example>")
        self.assertEqual(self.extension.asked[1:], [])

    def test_refuses(self) -> None:
        """What it refuses is answered in its words; the session is not asked, and nothing is open."""
        self.wire.say("MAIL FROM:<> HOLDFOR=0", "MAIL FROM:<>", "RCPT TO:<b@y.example> XR=no", "DATA")
        self.assertEqual(self.wire.codes, [554, 250, 554, 503])
        self.assertNotIn("rcpt", self.backend.hooks)

    def test_wrong_value(self) -> None:
        """A value that its parser refuses is 501 5.5.4 with the name in front."""
        reply = self.wire.say("MAIL FROM:<> HOLDFOR=soon").last_reply
        self.assertEqual(reply, Reply(501, "HOLDFOR: must be a number of 1 to 9 digits", "5.5.4"))

    def test_rcpt_parameter(self) -> None:
        """A parameter of RCPT is none of MAIL, and the other way round."""
        self.wire.say("MAIL FROM:<> XR=1", "MAIL FROM:<>")
        self.wire.say("RCPT TO:<b@y.example> HOLDFOR=1", "RCPT TO:<b@y.example> xr=Yes")
        self.assertEqual(self.wire.codes, [555, 250, 555, 250])
        self.assertEqual(self.extension.asked[1:], [("rcpt", "b@y.example", {"XR": "Yes"})])

    def test_broken_parser(self) -> None:
        """A parser that breaks is 451 4.3.0 with one logged traceback."""
        self.extension.rcpt_params = {"XR": {}.__getitem__}  # type: ignore[dict-item]
        wire = self.with_(self.extension).say("MAIL FROM:<>", "RCPT TO:<b@y.example> XR=1")
        self.assertEqual(wire.last_reply, replies.LOCAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_broken_check(self) -> None:
        """A check that breaks, by ValueError too, is 451 4.3.0, logged once, and none of it is sent."""
        for error in (ValueError("secret"), KeyError("secret"), UnicodeDecodeError("utf-8", b"", 0, 1, "secret")):
            with self.subTest(error=error):
                self.extension.mail = _raiser(error)  # type: ignore[method-assign]
                wire = self.with_(self.extension).say("MAIL FROM:<> HOLDFOR=1")
                self.assertEqual(wire.last_reply, replies.LOCAL_ERROR)
                self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)

    def test_verb(self) -> None:
        """Its verb is served in its states, is 503 in others, and stands in HELP."""
        wire = connect(self.backend, extensions=[*basics(), self.extension]).say("XPING")
        self.assertEqual(wire.codes, [503])
        wire = self.wire.say("xping a", "MAIL FROM:<>", "XPING", "RCPT TO:<b@y.example>", "XPING", "HELP")
        self.assertEqual(wire.codes, [250, 250, 250, 250, 503, 214])
        self.assertIn("XPING", wire.last_reply.text.split())

    def test_verb_outcomes(self) -> None:
        """What its verb gives is an Outcome like a hook's."""

        async def later() -> Reply:
            return Reply(250, "Pong", "2.0.0")

        pong = Reply(250, "Pong", "2.0.0")
        for give in (lambda: pong, lambda: succeed(pong), later):
            with self.subTest(give=give):
                self.extension.answer = give()
                self.assertEqual(self.wire.say("XPING").last_reply, pong)
        for give_none in (lambda: None, lambda: succeed(None)):
            self.extension.answer = give_none()
            self.assertEqual(self.wire.say("XPING").last_reply, replies.OK)

    def test_verb_waits(self) -> None:
        """A verb that is pending keeps what is pipelined behind it waiting."""
        pending: Deferred[Reply] = Deferred()
        self.extension.answer = pending
        self.wire.receive(b"XPING\r\nNOOP\r\n")
        self.assertEqual(self.wire.codes, [])
        pending.callback(Reply(252, "Pong"))
        self.assertEqual(self.wire.codes, [252, 250])

    def test_broken_verb(self) -> None:
        """A verb that breaks, by ValueError too, is 451 4.3.0, logged once, and none of it is sent."""
        for error in (ValueError("secret"), KeyError("secret")):
            with self.subTest(error=error):
                self.extension.verbs = {"XPING": Verb(State.GREETED, parse_nothing, _raiser(error))}
                self.assertEqual(self.with_(self.extension).say("XPING").last_reply, replies.LOCAL_ERROR)
                self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)

    def test_roles(self) -> None:
        """On a listener of another role it is not there: no keyword, no parameter, no verb."""
        wire = self.with_(self.extension, role=Role.SUBMISSION)
        self.assertNotIn("XRELEASE 604800", keywords(wire))
        self.assertEqual(wire.forget().say("MAIL FROM:<> HOLDFOR=1", "XPING").codes, [555, 500])

    def test_after_helo(self) -> None:
        """After HELO its parameters are 555, and its verb is served."""
        wire = self.wire.say("HELO x").forget().say("MAIL FROM:<> HOLDFOR=1", "XPING")
        self.assertEqual(wire.codes, [555, 250])


def _raiser(error: Exception) -> Any:
    def raise_it(*_: object) -> None:
        raise error

    return raise_it
