"""Tests of smtpsvc.values: what travels through the hooks."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import NULL, Address
from smtpsvc.settings import Role
from smtpsvc.values import Body, Envelope, Peer, Quarantine, Recipient, Results, TLSInfo

CLIENT = Peer(IPv4Address("TCP", "192.0.2.1", 50000), "c1")
ADDRESS = Address("b", "y.example")


class PeerTests(SynchronousTestCase):
    def test_address(self) -> None:
        """A peer has its IP address as text and its port; a unix socket has neither."""
        cases: tuple[tuple[Any, str, int], ...] = (
            (IPv4Address("TCP", "192.0.2.1", 50000), "192.0.2.1", 50000),
            (IPv6Address("TCP", "2001:db8::1", 50000), "2001:db8::1", 50000),
            (UNIXAddress(b"/run/x"), "", 0),
            (UNIXAddress(None), "", 0),
            (None, "", 0),
        )
        for address, host, port in cases:
            with self.subTest(address=address):
                peer = Peer(address, "c1")
                self.assertEqual((peer.address, peer.host, peer.port), (address, host, port))

    def test_unknown(self) -> None:
        """What is not yet known of a peer is empty."""
        peer = Peer(IPv4Address("TCP", "192.0.2.1", 50000), "c1")
        known = (peer.id, peer.helo, peer.extended, peer.tls, peer.account, peer.proxied_by)
        self.assertEqual(known, ("c1", "", False, None, None, None))

    def test_no_other_fields(self) -> None:
        """A peer takes no fields that it does not have: a typing error is no silent no-op."""
        with self.assertRaises(AttributeError):
            CLIENT.hello = "x"  # type: ignore[attr-defined]

    def test_repr(self) -> None:
        """A peer shows its id and address, and not what the client said of itself."""
        peer = Peer(IPv4Address("TCP", "192.0.2.1", 50000), "c1")
        peer.helo = "liar\r\n.example"
        self.assertEqual(repr(peer), "<Peer c1 192.0.2.1>")
        self.assertEqual(repr(Peer(UNIXAddress(None), "c2")), "<Peer c2 local>")


class EnvelopeTests(SynchronousTestCase):
    def envelope(self, **params: Any) -> Envelope:
        """Open a transaction."""
        return Envelope("t1", CLIENT, NULL, params)

    def test_size(self) -> None:
        """The declared size, or None if there was none; 0 is a size."""
        self.assertIsNone(self.envelope().size)
        self.assertEqual([self.envelope(SIZE=size).size for size in (0, 1000)], [0, 1000])

    def test_utf8(self) -> None:
        """Mail is internationalized if the client said so."""
        self.assertFalse(self.envelope(BODY=Body.EIGHT_BIT_MIME).utf8)
        self.assertTrue(self.envelope(SMTPUTF8=True).utf8)

    def test_defaults(self) -> None:
        """An envelope begins without recipients, parameters and role of its own."""
        envelope = Envelope("t1", CLIENT, NULL)
        self.assertEqual((envelope.recipients, dict(envelope.mail_params), envelope.role), ([], {}, Role.SMTP))

    def test_own_recipients(self) -> None:
        """The recipients of one envelope are not those of another."""
        self.envelope().recipients.append(Recipient(ADDRESS))
        self.assertEqual(self.envelope().recipients, [])

    def test_no_shared_parameters(self) -> None:
        """The parameters of a MAIL without any cannot be changed, since all of them share one mapping."""
        with self.assertRaises(TypeError):
            Envelope("t1", CLIENT, NULL).mail_params["X"] = 1  # type: ignore[index]

    def test_repr(self) -> None:
        """An envelope shows its id, its sender and how many recipients it has."""
        envelope = Envelope("t1", CLIENT, Address("a", "x.example"))
        envelope.recipients.append(Recipient(ADDRESS))
        self.assertEqual(repr(envelope), "<Envelope t1 from 'a@x.example' to 1>")


class RecipientTests(SynchronousTestCase):
    def test_equal(self) -> None:
        """Recipients of equal address and parameters are equal."""
        self.assertEqual(Recipient(ADDRESS), Recipient(Address("b", "y.example"), {}))
        self.assertNotEqual(Recipient(ADDRESS), Recipient(ADDRESS, {"NOTIFY": "NEVER"}))

    def test_frozen(self) -> None:
        """A recipient does not change."""
        with self.assertRaises(FrozenInstanceError):
            Recipient(ADDRESS).address = NULL  # type: ignore[misc]

    def test_str(self) -> None:
        """A recipient shows its address."""
        self.assertEqual(str(Recipient(ADDRESS)), "b@y.example")


class TLSInfoTests(SynchronousTestCase):
    def test_frozen(self) -> None:
        """What is known of a handshake does not change."""
        info = TLSInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384")
        self.assertEqual((info.sni, info.certificate), ("", None))
        with self.assertRaises(FrozenInstanceError):
            info.sni = "x"  # type: ignore[misc]


class BodyTests(SynchronousTestCase):
    def test_words(self) -> None:
        """The members are the words of RFC 6152 and RFC 3030."""
        self.assertEqual([body.value for body in Body], ["7BIT", "8BITMIME", "BINARYMIME"])


class ResultsTests(SynchronousTestCase):
    def test_types(self) -> None:
        """There is one value of each type, and a type does not find those that derive from it."""
        results = Results()
        self.assertEqual((results.get(Quarantine), len(results)), (None, 0))
        for value in (Quarantine("a"), True, Quarantine("b")):
            results.put(value)
        self.assertEqual((results.get(Quarantine), results.get(bool), results.get(int)), (Quarantine("b"), True, None))
        self.assertEqual(list(results), [Quarantine("b"), True])
        self.assertEqual(repr(results), "Results([Quarantine(reason='b'), True])")

    def test_kept(self) -> None:
        """A peer and an envelope each keep theirs."""
        envelope = Envelope("t1", Peer(None, "c1"), NULL)
        for owner in (envelope, envelope.peer):
            owner.results.put(Quarantine("a"))
            self.assertEqual(owner.results.get(Quarantine), Quarantine("a"))
        self.assertIsNot(envelope.results, envelope.peer.results)
