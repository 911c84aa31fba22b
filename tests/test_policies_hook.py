"""
Tests of smtpsvc.policies.hook, hookclient and hookverdicts: verdicts of a web server.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from smtpsvc.grammar.replies import Reply
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import with_policies
from smtpsvc.policies.hook import Hook, make, read_secret
from smtpsvc.policies.hookclient import LONGEST, WebHook, check_url, web_hook
from smtpsvc.policies.hookverdicts import HookVerdict, read_verdict, signed
from smtpsvc.policies.reaching import ProgramFailed, Reach
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Quarantine, TLSInfo
from tests.certificates import AUTHORITY, pair
from tests.support import given, settings_with, st

MAIL = ("MAIL FROM:<a@x.example> SIZE=77", "RCPT TO:<b@y.example>")
LETTER = (*MAIL, "DATA", "Subject: x", "", "Hello", ".")
URL = "http://127.0.0.1:8000/verdict"


@implementer(IResponse)
class Answer:
    """A response that is there at once."""

    version = ("HTTP", 1, 1)
    phrase = b""
    request = None
    previousResponse = None

    def __init__(self, body: bytes, code: int) -> None:
        self.body = body
        self.code = code
        self.headers = Headers()
        self.length = len(body)

    def deliverBody(self, protocol: Any) -> None:
        """Give it all."""
        protocol.dataReceived(self.body)
        protocol.connectionLost(Failure(ResponseDone()))


@implementer(IAgent)
class Web:
    """A web server in memory: *answer* gives body and status, or a Deferred, to each request."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer
        self.requests: list[tuple[dict[str, Any], Headers]] = []
        self.bodies: list[bytes] = []

    def request(self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: Any = None) -> Any:
        """Answer."""
        from twisted.internet.testing import StringTransport

        sink = StringTransport()
        bodyProducer.startProducing(sink)
        # The producer writes in turns of the reactor unless all of it fits in one.
        body = sink.value()
        assert headers is not None, "treq gives some"
        self.bodies.append(body)
        self.requests.append((json.loads(body or b"{}"), headers))
        answer = self.answer()
        return answer if isinstance(answer, Deferred) else succeed(Answer(*answer))

    def closeCachedConnections(self) -> None:
        """There are none."""


def verdict(**said: Any) -> Callable[[], Any]:
    """Answer with a verdict."""
    return lambda: (json.dumps(said).encode(), 200)


class Served:
    """A server with the policy, and a client that has said EHLO."""

    def __init__(self, answer: Callable[[], Any], *stages: str, **settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.web = Web(answer)
        self.backend = ScriptedBackend()
        reach = Reach(None, "hook", clock=self.clock)
        web = WebHook(URL, Client(self.web), reach, clock=self.clock, seconds=10, pool=self.web)
        self.policy = Hook(web, stages or ("rcpt",), clock=self.clock, **settings)
        chain = with_policies(self.backend, self.policy, reactor=self.clock)
        self.factory, _ = clocked_factory(chain, settings_with(add_received=False))
        self.wire = Wire(self.factory).greeted()

    def say(self, *lines: str) -> Reply:
        """Say lines, and give the last reply without an id."""
        reply = self.wire.say(*lines).last_reply
        return Reply(reply.code, reply.text.partition(" (")[0], reply.enhanced)


class Client:
    """What the policy uses of treq's client, without its cooperator, which needs a reactor that runs."""

    def __init__(self, web: Web) -> None:
        self.web = web

    def post(self, url: str, *, data: bytes, headers: dict[str, str], **more: Any) -> Any:
        """Post."""
        assert not more["allow_redirects"], "a redirection is no verdict"

        class Producer:
            def startProducing(self, consumer: Any) -> None:
                consumer.write(data)

        named = Headers({name: [value] for name, value in headers.items()})
        return self.web.request(b"POST", url.encode(), named, Producer())


class QuestionTests(SynchronousTestCase):
    def test_rcpt(self) -> None:
        """At RCPT all that is known is told."""
        served = Served(verdict(action="accept"))
        served.wire.pretend_tls(TLSInfo("TLSv1.3", "AES"))
        served.wire.say("EHLO client.example")
        served.say(*MAIL)
        ((told, headers),) = served.web.requests
        client, id = told.pop("client"), told.pop("id")
        self.assertTrue(id)
        self.assertEqual(
            told,
            {
                "version": 1,
                "stage": "rcpt",
                "protocol": "smtp",
                "sender": "a@x.example",
                "sender_params": {"SIZE": 77},
                "recipients": [],
                "recipient": "b@y.example",
                "recipient_params": {},
                "size": 77,
            },
        )
        self.assertEqual((client["address"], client["helo"]), ("192.0.2.1", "client.example"))
        self.assertEqual(client["tls"], {"version": "TLSv1.3", "cipher": "AES"})
        self.assertEqual(headers.getRawHeaders("content-type"), ["application/json"])

    def test_stages(self) -> None:
        """Each stage that is asked for is told, and no other."""
        served = Served(verdict(action="accept"), "mail", "rcpt", "data", "message")
        self.assertEqual(served.say(*LETTER).code, 250)
        self.assertEqual([told["stage"] for told, _ in served.web.requests], ["mail", "rcpt", "data", "message"])
        self.assertNotIn("headers", served.web.requests[-1][0])
        self.assertEqual(served.web.requests[-1][0]["size"], 21)

    def test_headers(self) -> None:
        """The header of the message is told where that is asked for, in printable words."""
        served = Served(verdict(action="accept"), "message", headers=True)
        served.say(*MAIL, "DATA", "Subject: a", "X-B: \x1b\r\n c", "", ".")
        self.assertEqual(served.web.requests[0][0]["headers"], [["Subject", "a"], ["X-B", "\\x1b c"]])

    def test_signature(self) -> None:
        """What is told is signed with its time, so that nobody else can tell it, nor tell it again."""
        secret = b"0123456789abcdef"
        served = Served(verdict(action="accept"), secret=lambda: secret)
        served.say(*MAIL)
        headers = served.web.requests[0][1]
        message = b"1700000000." + served.web.bodies[0]
        self.assertEqual(headers.getRawHeaders("X-Smtpsvc-Timestamp"), ["1700000000"])
        expected = f"sha256={hmac.new(secret, message, hashlib.sha256).hexdigest()}"
        self.assertEqual(headers.getRawHeaders("X-Smtpsvc-Signature"), [expected])
        self.assertEqual(signed(b"x", secret, 1.9)["X-Smtpsvc-Timestamp"], "1")


class AnswerTests(SynchronousTestCase):
    def test_refusals(self) -> None:
        """A refusal has the words of the hook, or usual ones."""
        for said, reply in [
            ({"action": "reject"}, Reply(550, "Refused by the policy of this server", "5.7.1")),
            ({"action": "reject", "code": 554, "text": "No\x1b"}, Reply(554, "No\\x1b", "5.7.1")),
            ({"action": "defer", "enhanced": "4.2.1", "text": "a"}, Reply(451, "a", "4.2.1")),
        ]:
            self.assertEqual(Served(verdict(**said)).say(*MAIL), reply)

    def test_message(self) -> None:
        """A message may be refused at its end."""
        served = Served(verdict(action="reject"), "message")
        self.assertEqual((served.say(*LETTER).code, served.backend.messages), (550, []))

    def test_tag(self) -> None:
        """Header fields are put before the message, in their order."""
        for stage in ("mail", "rcpt", "data", "message"):
            for headers in ([["X-A", "1"], ["X-B", "2"]], {"X-A": "1", "X-B": "2"}):
                served = Served(verdict(action="tag", headers=headers), stage)
                self.assertEqual(served.say(*LETTER).code, 250)
                self.assertEqual(served.backend.messages[0].content[:20], b"X-A: 1\r\nX-B: 2\r\nSubj", stage)

    def test_discard(self) -> None:
        """A message that is discarded is answered as if it were taken."""
        for stage in ("mail", "rcpt", "data", "message"):
            served = Served(verdict(action="discard"), stage)
            self.assertEqual((served.say(*LETTER).code, served.backend.messages), (250, []), stage)

    def test_quarantine(self) -> None:
        """A message to be kept apart is marked."""
        served = Served(verdict(action="quarantine", text="odd"))
        served.say(*LETTER)
        self.assertEqual(served.backend.messages[0].envelope.results.get(Quarantine), Quarantine("odd"))

    def test_empty(self) -> None:
        """Status 204 is consent."""
        self.assertEqual(Served(lambda: (b"", 204)).say(*MAIL).code, 250)

    def test_nonsense(self) -> None:
        """What makes no sense is no verdict."""
        for body in (
            b"",
            b"[]",
            b"[" * 100_000,
            b"{}",
            b'{"action":"drop"}',
            b'{"action":["accept"]}',
            b'{"action":"reject","code":250}',
            b'{"action":"defer","code":550}',
            b'{"action":"reject","code":"550"}',
            b'{"action":"reject","enhanced":"4.7.1"}',
            b'{"action":"reject","enhanced":7}',
            b'{"action":"accept","text":7}',
            b'{"action":"tag"}',
            b'{"action":"tag","headers":7}',
            b'{"action":"tag","headers":[["a"]]}',
            b'{"action":"tag","headers":{"a b":"c"}}',
            b'{"action":"tag","headers":{"A":"b\\r\\nBcc: c"}}',
            b'{"action":"tag","headers":[%b]}' % b",".join([b'["A","b"]'] * 51),
        ):
            self.assertRaises(ProgramFailed, read_verdict, body)

    @given(st.dictionaries(st.sampled_from(["code", "enhanced", "text", "headers"]), st.text() | st.integers()))
    def test_any_answer(self, said: dict[str, Any]) -> None:
        """Whatever is answered is a verdict or none."""
        try:
            found = read_verdict(json.dumps({"action": "reject", **said}).encode())
        except ProgramFailed:
            return
        self.assertIsInstance(found, HookVerdict)


class FailureTests(SynchronousTestCase):
    def test_table(self) -> None:
        """No answer in time, another status, a long one or nonsense: the verdict for that is given."""
        for answer in (
            Deferred,
            lambda: (b"", 500),
            lambda: (b"", 302),
            lambda: (b" " * (LONGEST + 1), 200),
            lambda: (b"OK", 200),
            lambda: fail(Refused()),
        ):
            for on_failure, code in ((None, 250), (Reply(451, "Later", "4.7.1"), 451)):
                served = Served(answer, on_failure=on_failure)
                served.wire.say(*MAIL)
                served.clock.advance(10)
                self.assertEqual(served.wire.last_reply.code, code)

    def test_pause(self) -> None:
        """A server that cannot be reached is not tried again for a while; one that talks nonsense is."""
        for answer, count in ((lambda: fail(Refused()), 1), (lambda: (b"", 500), 2)):
            served = Served(answer)
            served.say(*MAIL, "RCPT TO:<c@y.example>")
            self.assertEqual(len(served.web.requests), count)
            served.clock.advance(5)
            served.say("RCPT TO:<c@y.example>")
            self.assertEqual(len(served.web.requests), count + 1)

    def test_gone(self) -> None:
        """The request of a client that goes is cancelled."""
        cancelled: list[Any] = []
        served = Served(lambda: Deferred(cancelled.append))
        served.wire.say(*MAIL).hang_up()
        self.assertEqual((len(cancelled), served.clock.getDelayedCalls()), (1, []))


class ArgumentTests(SynchronousTestCase):
    def test_arguments(self) -> None:
        """What is typed is understood; what stands behind a question mark is not in the log."""
        path = Path(self.mktemp())
        path.write_bytes(b"0123456789abcdef\n")
        made = make(Arguments(f"https://h.example/v?key=7,at=message,headers=yes,secret={path},timeout=3s"), Clock())
        self.assertEqual(made.name, "hook https://h.example/v")
        for text, sentence in {
            "": "the URL is missing",
            "https://h.example/,at=helo": "'helo' is not one of",
            "https://h.example/,secret=/nowhere": "secret: /nowhere: No such file",
            "https://h.example/,ca=/nowhere": "/nowhere: No such file",
            f"https://h.example/,ca={path}": "there is no certificate in it",
        }.items():
            with self.assertRaisesRegex(ValueError, sentence):
                make(Arguments(text), Clock())

    def test_urls(self) -> None:
        """What is told of mail goes over TLS, or stays on this host."""
        for good in ("https://h.example/x", "http://localhost:1/x", "http://[::1]/", "http://127.0.0.9/"):
            self.assertEqual(check_url(good), good)
        for bad in ("http://h.example/", "ftp://localhost/", "h.example", "https://", "https://a:b@h/", "http://[::/"):
            self.assertRaises(ValueError, check_url, bad)

    def test_secret(self) -> None:
        """A secret is long enough, and has no white space around it."""
        self.assertEqual(read_secret(b" 0123456789abcdef\n"), b"0123456789abcdef")
        self.assertRaises(ValueError, read_secret, b"short")


class Judge(Resource):
    """A hook that refuses all."""

    isLeaf = True

    def render_POST(self, request: Any) -> bytes:
        """Refuse it."""
        told = json.loads(request.content.read())
        return json.dumps({"action": "reject", "text": f"{told['sender']} may not"}).encode()


class Silent(Resource):
    """A hook that begins to answer, and never ends."""

    isLeaf = True

    def render_POST(self, request: Any) -> Any:
        """Begin."""
        request.write(b"{")
        return NOT_DONE_YET


class SocketTests(TestCase):
    def hook(self, port: Any, scheme: str, seconds: float = 30, **settings: Any) -> WebHook:
        """Make a hook of what listens."""
        self.addCleanup(port.stopListening)
        url = f"{scheme}://localhost:{port.getHost().port}/"
        reach = Reach(None, "hook", clock=reactor)
        web = web_hook(url, reach, reactor, seconds=seconds, connect_timeout=30, **settings)
        self.addCleanup(web.stop)
        return web

    async def test_http(self) -> None:
        """A web server on this host is asked, on one connection."""
        site = Site(Judge())
        web = self.hook(reactor.listenTCP(0, site, interface="127.0.0.1"), "http")
        for _ in range(2):
            verdict = read_verdict(await web.ask(b'{"sender":"a@x.example"}', {}))
            self.assertEqual(verdict.reply, Reply(550, "a@x.example may not", "5.7.1"))

    async def test_tls(self) -> None:
        """A certificate is verified: with its authority all is well, without it there is no verdict."""
        ca = Path(self.mktemp())
        ca.write_bytes(AUTHORITY.pem)
        context = ssl.PrivateCertificate.loadPEM(b"".join(pair())).options()
        port = reactor.listenSSL(0, Site(Judge()), context, interface="127.0.0.1")
        web = self.hook(port, "https", ca=str(ca))
        self.assertEqual(read_verdict(await web.ask(b'{"sender":"a"}', {})).action, "reject")
        strict = self.hook(reactor.listenSSL(0, Site(Judge()), context, interface="127.0.0.1"), "https")
        with self.assertRaises(ProgramFailed):
            await strict.ask(b'{"sender":"a"}', {})

    async def test_silent(self) -> None:
        """An answer that does not end has its time, and its connection is closed."""
        web = self.hook(reactor.listenTCP(0, Site(Silent()), interface="127.0.0.1"), "http", 0.2)
        with self.assertRaisesRegex(ProgramFailed, r"no answer within 0\.2 s"):
            await web.ask(b"{}", {})
