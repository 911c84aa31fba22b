"""Tests of smtpsvc.message.dsn: notifications, read back by Python's own parser of mail."""

from __future__ import annotations

import email
import email.policy
import io
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import NO_SUCH_USER, Reply
from smtpsvc.message.dsn import MOST_HEADER, MOST_RETURNED, Action, Fate, Notification, notification
from smtpsvc.parameters import Notify, OriginalRecipient, Ret
from smtpsvc.testing import ScriptedBackend
from smtpsvc.values import Envelope, Peer, Recipient
from tests.meetings import Meeting
from tests.support import given, settings, st

NOW = 1_795_000_000.0
ORIGINAL = b"From: <a@x.example>\r\nSubject: hello\r\n\r\nThis is\r\n..the body\r\n"


def recipient(text: str = "b@y.example", **params: Any) -> Recipient:
    """Make a recipient; ``NOTIFY`` may be one word."""
    local, _, domain = text.rpartition("@")
    if isinstance(params.get("NOTIFY"), Notify):
        params["NOTIFY"] = frozenset({params["NOTIFY"]})
    return Recipient(Address(local, domain), params)


def failed(text: str = "b@y.example", reply: Reply = NO_SUCH_USER, **params: Any) -> Fate:
    """Say that a message could not be delivered."""
    return Fate(recipient(text, **params), Action.FAILED, reply, "mx.y.example")


def written(*fates: Fate, original: Any = ORIGINAL, sender: str = "a@x.example", **options: Any) -> Notification | None:
    """Write a notification."""
    local, _, domain = sender.rpartition("@")
    params = {name.upper(): options.pop(name) for name in ("ret", "envid", "smtputf8") if name in options}
    envelope = Envelope("ID", Peer(None, "1"), Address(local, domain), params)
    return notification(envelope, fates, original, reporter="relay.example", now=NOW, **options)


class DSNTestCase(SynchronousTestCase):
    def read(self, *fates: Fate, **options: Any) -> EmailMessage:
        """Write a notification and parse it; it has no defect."""
        made = written(*fates, **options)
        assert made is not None
        self.assertTrue(made.sender.is_null)
        self.assertNotIn(b"\n", made.content.replace(b"\r\n", b""))
        policy = email.policy.SMTPUTF8 if made.mail_params else email.policy.SMTP
        message = email.message_from_bytes(made.content, policy=policy)
        assert isinstance(message, EmailMessage)
        for part in message.walk():
            self.assertEqual(part.defects, [])
        return message

    def status(self, message: EmailMessage) -> list[dict[str, str]]:
        """Give the fields for the message, and those for each recipient."""
        _, status, _ = message.iter_parts()
        if status.get_content_type() == "message/delivery-status":
            return [dict(each.items()) for each in status.get_payload()]
        text = status.as_bytes().decode().partition("\r\n\r\n")[2]
        return [dict(email.message_from_string(each).items()) for each in text.split("\r\n\r\n") if each.strip()]


class ReportTests(DSNTestCase):
    def test_header(self) -> None:
        """It is for the sender, from nobody, and says that nobody shall answer it."""
        message = self.read(failed())
        self.assertEqual(message["To"].addresses[0].addr_spec, "a@x.example")
        self.assertEqual(message["From"], "Mail Delivery System <MAILER-DAEMON@relay.example>")
        self.assertEqual(message["Auto-Submitted"], "auto-replied")
        self.assertEqual(message.get_content_type(), "multipart/report")
        self.assertEqual(message.get_param("report-type"), "delivery-status")
        self.assertEqual([each.get_content_type() for each in message.iter_parts()], [
            "text/plain", "message/delivery-status", "message/rfc822",
        ])  # fmt: skip

    def test_status(self) -> None:
        """The fields are those of RFC 3464."""
        original = OriginalRecipient("rfc822", "c d@z.example")
        fate = Fate(
            recipient(ORCPT=original),
            Action.FAILED,
            NO_SUCH_USER,
            "mx.y.example",
            last_attempt=datetime(2026, 1, 2, tzinfo=UTC),
        )
        whole, each = self.status(self.read(fate, envid="a b", arrived=NOW - 60))
        self.assertEqual(whole["Original-Envelope-Id"], "a b")
        self.assertEqual(whole["Reporting-MTA"], "dns; relay.example")
        self.assertEqual(whole["Arrival-Date"], "Wed, 18 Nov 2026 11:05:40 +0000")
        self.assertEqual(each["Original-Recipient"], "rfc822; c d@z.example")
        self.assertEqual(each["Final-Recipient"], "rfc822; b@y.example")
        self.assertEqual((each["Action"], each["Status"], each["Remote-MTA"]), ("failed", "5.1.1", "dns; mx.y.example"))
        self.assertTrue(each["Diagnostic-Code"].startswith("smtp; 550 5.1.1 "))
        self.assertEqual(each["Last-Attempt-Date"], "Fri, 2 Jan 2026 00:00:00 +0000")

    def test_no_orcpt(self) -> None:
        """Without ORCPT there is no Original-Recipient (RFC 3461 §6.3)."""
        self.assertNotIn("Original-Recipient", self.status(self.read(failed()))[1])

    def test_people(self) -> None:
        """People read what happened to whom, and what the server said."""
        text = self.read(failed()).get_body().get_content()
        self.assertIn("could not be delivered", text)
        self.assertIn("<b@y.example>", text)
        self.assertIn("mx.y.example said: 550 5.1.1", text)

    def test_actions(self) -> None:
        """Each action has its subject, its status, and only delays say how long they are tried."""
        until = datetime(2026, 1, 2, tzinfo=UTC)
        asked = recipient(NOTIFY=frozenset({Notify.SUCCESS, Notify.FAILURE, Notify.DELAY}))
        subjects = set()
        for action, status in zip(Action, ("5.0.0", "4.0.0", "2.0.0", "2.0.0", "2.0.0"), strict=True):
            message = self.read(Fate(asked, action, retry_until=until))
            subjects.add(message["Subject"])
            each = self.status(message)[1]
            self.assertEqual((each["Action"], each["Status"]), (action.value, status))
            self.assertEqual("Will-Retry-Until" in each, action is Action.DELAYED)
        self.assertEqual(len(subjects), len(Action))

    def test_contradiction(self) -> None:
        """A status that contradicts the action is not said; a failure after many a 4yz is."""
        busy = Reply(451, "busy", "4.3.2")
        self.assertEqual(self.status(self.read(failed(reply=busy)))[1]["Status"], "4.3.2")
        self.assertEqual(self.status(self.read(Fate(recipient(), Action.DELAYED, NO_SUCH_USER)))[1]["Status"], "4.0.0")
        self.assertEqual(self.status(self.read(failed(reply=Reply(550, "no"))))[1]["Status"], "5.0.0")

    def test_several(self) -> None:
        """One notification tells of several recipients; what is worst is in the subject."""
        message = self.read(Fate(recipient("c@y.example"), Action.DELAYED), failed())
        self.assertEqual([each["Action"] for each in self.status(message)[1:]], ["delayed", "failed"])
        self.assertTrue(message["Subject"].startswith("Undelivered"))


class WantedTests(SynchronousTestCase):
    def test_notify(self) -> None:
        """Each word of NOTIFY wants its actions, NEVER none, and none at all failures and delays (RFC 3461 §4.1)."""
        success = (Action.DELIVERED, Action.RELAYED, Action.EXPANDED)
        for word, wanted in (
            (Notify.NEVER, ()),
            (Notify.SUCCESS, success),
            (Notify.FAILURE, (Action.FAILED,)),
            (Notify.DELAY, (Action.DELAYED,)),
            (None, (Action.FAILED, Action.DELAYED)),
        ):
            params = {"NOTIFY": word} if word else {}
            found = tuple(action for action in Action if written(Fate(recipient(**params), action)) is not None)
            self.assertEqual(found, wanted, word)

    def test_null_sender(self) -> None:
        """Nobody is notified of what came from nobody."""
        self.assertIsNone(written(failed(), sender=""))

    def test_others(self) -> None:
        """Recipients of whom the sender wants to hear nothing are left out."""
        made = written(failed("b@y.example", NOTIFY=Notify.NEVER), failed("c@y.example"))
        assert made is not None
        self.assertNotIn(b"b@y.example", made.content)

    def test_not_notified(self) -> None:
        """A notification asks for none of itself."""
        made = written(failed())
        assert made is not None
        self.assertEqual(made.rcpt_params, {"NOTIFY": {Notify.NEVER}})


class ReturnedTests(DSNTestCase):
    def returned(self, *fates: Fate, **options: Any) -> tuple[str, bytes]:
        """Give the type and the octets of what is returned."""
        *_, part = self.read(*fates or (failed(),), **options).iter_parts()
        return part.get_content_type(), part.as_bytes().partition(b"\r\n\r\n")[2]

    def test_full(self) -> None:
        """Of a failure the message comes back octet by octet, unless RET=HDRS was said."""
        self.assertEqual(self.returned(), ("message/rfc822", ORIGINAL))
        self.assertEqual(self.returned(ret=Ret.FULL)[1], ORIGINAL)
        header = ORIGINAL.partition(b"\r\n\r\n")[0] + b"\r\n"
        self.assertEqual(self.returned(ret=Ret.HDRS), ("text/rfc822-headers", header))

    def test_success(self) -> None:
        """Of all else the header comes back (RFC 3461 §4.3)."""
        fate = Fate(recipient(NOTIFY=Notify.SUCCESS), Action.DELIVERED)
        self.assertEqual(self.returned(fate, ret=Ret.FULL)[0], "text/rfc822-headers")

    def test_file(self) -> None:
        """The message may be a file, of which no more is read than is returned."""
        file = io.BytesIO(ORIGINAL + b"x" * 70 + b"\r\n" * MOST_RETURNED)
        self.assertEqual(self.returned(original=file)[0], "text/rfc822-headers")
        self.assertEqual(file.tell(), MOST_RETURNED + 1)

    def test_bounded(self) -> None:
        """A large message comes back without its body, a large header cut."""
        self.assertEqual(self.returned(original=ORIGINAL + b"x\r\n" * MOST_RETURNED)[0], "text/rfc822-headers")
        self.assertLess(len(self.returned(original=b"a: b\r\n" * MOST_HEADER)[1]), MOST_HEADER + 10)

    def test_no_body(self) -> None:
        """A message that is all header comes back whole, and a file that is cut in its header too."""
        self.assertEqual(self.returned(original=b"a: b\r\n", ret=Ret.HDRS), ("text/rfc822-headers", b"a: b\r\n"))

    def test_damaged(self) -> None:
        """What could not be sent on (bare line ends, NUL, long lines) comes back as a header that can."""
        for damage in (b"\0", b"\r", b"a\nb", b"x" * 1000):
            kind, octets = self.returned(original=b"a: b" + damage + b"\r\n\r\n" + damage)
            self.assertEqual(kind, "text/rfc822-headers")
            self.assertLess(max(map(len, octets.split(b"\r\n"))), 999)

    def test_eight_bit(self) -> None:
        """8-bit content is declared."""
        made = written(failed(), original="a: b\r\n\r\nmäßig\r\n".encode())
        assert made is not None
        self.assertEqual(made.content.count(b"Content-Transfer-Encoding: 8bit"), 2)


class InternationalTests(DSNTestCase):
    def test_utf8(self) -> None:
        """A message that came with SMTPUTF8 gets the international form (RFC 6533)."""
        fate = failed("βήτα@y.example", ORCPT=OriginalRecipient("utf-8", "γάμμα@z.example"))
        original = "Subject: grüße\r\n\r\nx\r\n".encode()
        message = self.read(fate, sender="jürgen@x.example", smtputf8=True, original=original)
        self.assertEqual([each.get_content_type() for each in message.iter_parts()][1:], [
            "message/global-delivery-status", "message/global",
        ])  # fmt: skip
        raw = written(fate, sender="jürgen@x.example", smtputf8=True, original=original)
        assert raw is not None
        self.assertEqual(raw.mail_params, {"SMTPUTF8": True})
        self.assertIn("Final-Recipient: utf-8; βήτα@y.example\r\n".encode(), raw.content)
        self.assertIn("Original-Recipient: utf-8; γάμμα@z.example\r\n".encode(), raw.content)
        self.assertIn("To: <jürgen@x.example>\r\n".encode(), raw.content)

    def test_escaped(self) -> None:
        """In the form of US-ASCII, international addresses are escaped (RFC 6533 §3)."""
        made = written(failed("β@y.example"), smtputf8=True, international=False)
        assert made is not None
        self.assertIn(b"Final-Recipient: utf-8; \\x{3B2}@y.example\r\n", made.content)
        self.assertTrue(made.content.isascii())
        self.assertEqual(made.mail_params, {})


class HostileTests(DSNTestCase):
    def test_forged(self) -> None:
        """What a server says cannot begin a field, nor steer a terminal."""
        reply = Reply(550, "no\r\nStatus: 2.0.0\r\n\r\n\x1b[31m", "5.1.1")
        message = self.read(failed(reply=reply, ORCPT=OriginalRecipient("rfc822", "a\r\nAction: delivered")))
        each = self.status(message)[1]
        self.assertEqual((each["Status"], each["Action"]), ("5.1.1", "failed"))
        self.assertNotIn("\x1b", str(message))

    def test_long(self) -> None:
        """An address that is too long for a line when it is escaped is cut."""
        made = written(failed("β" * 300 + "@y.example", ORCPT=OriginalRecipient("utf-8", "β" * 500)))
        assert made is not None
        self.assertLess(max(map(len, made.content.split(b"\r\n"))), 999)

    @given(st.text(max_size=700), st.text(min_size=1, max_size=300), st.binary(max_size=300), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_anything(self, words: str, original: str, content: bytes, utf8: bool) -> None:
        """Whatever was said, whatever the message, a parser reads it as it was meant."""
        fate = failed(reply=Reply(550, words), ORCPT=OriginalRecipient("rfc822", original))
        options = {"smtputf8": True} if utf8 else {}
        made = written(fate, original=content, **options)
        assert made is not None
        self.assertTrue(utf8 or made.content.partition(b"message/delivery-status")[0].isascii())
        message = email.message_from_bytes(made.content, policy=email.policy.SMTP)
        self.assertEqual(len(list(message.iter_parts())), 3)  # type: ignore[attr-defined]
        self.assertLess(max(map(len, made.content.split(b"\r\n"))), 999)


class SentTests(SynchronousTestCase):
    def test_sent(self) -> None:
        """Our client takes it as it is, for a server with SMTPUTF8 and DSN, and for one without."""
        for options in ({}, {"smtputf8": True, "sender": "jürgen@x.example"}):
            made = written(failed(), **options)
            assert made is not None
            meeting = Meeting(ScriptedBackend())
            done = meeting.connection.send(
                made.sender,
                [made.recipient],
                made.content,
                params=made.mail_params,
                recipient_params=made.rcpt_params,
            )
            meeting.meet()
            self.assertEqual(len(self.successResultOf(done).taken), 1)
            self.assertTrue(meeting.backend.messages[0].content.endswith(made.content))
