"""
Tests of smtpsvc.grammar.proxyheader: the header of the PROXY protocol.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import SyntaxProblem
from smtpsvc.grammar.proxyheader import MAX_PAYLOAD, HeaderTLS, ProxyHeader, ProxyHeaderReader, SocketAddress, crc32c
from tests.proxies import INET, INET6, SIGNATURE, TCP4, block, tls_tlv, tlv
from tests.support import cuts


def socket_address(ip: str, port: int) -> SocketAddress:
    """Make the address that a header gives."""
    return SocketAddress(ipaddress.ip_address(ip), port)


CLIENT = socket_address("192.0.2.7", 50123)
SERVER = socket_address("198.51.100.1", 25)


def read(data: bytes) -> tuple[ProxyHeader | None, bytes]:
    """Feed *data* to a new reader."""
    return ProxyHeaderReader().feed(data)


class Assertions(SynchronousTestCase):
    """How headers are refused."""

    def assert_refused(self, data: bytes, sentence: str = "") -> None:
        """*data* is refused, whole and octet by octet, for the same reason."""
        for pieces in ([data], [data[place : place + 1] for place in range(len(data))]):
            reader = ProxyHeaderReader()
            with self.assertRaises(SyntaxProblem) as caught:
                for piece in pieces:
                    header, _ = reader.feed(piece)
                    self.assertIsNone(header)
            self.assertIn(sentence, str(caught.exception))


class LineTests(Assertions):
    """Version 1: a line of text."""

    def test_ipv4(self) -> None:
        """TCP4 names two IPv4 addresses and two ports."""
        self.assertEqual(read(TCP4), (ProxyHeader(1, source=CLIENT, destination=SERVER), b""))

    def test_ipv6(self) -> None:
        """TCP6 names two IPv6 addresses, shortened or not, in either case of letters."""
        for text in ("2001:db8::7", "2001:DB8:0:0:0:0:0:7", "2001:0db8:0000:0000:0000:0000:0000:0007"):
            with self.subTest(text):
                header, _ = read(f"PROXY TCP6 {text} ::1 0 65535\r\n".encode())
                assert header is not None
                self.assertEqual(header.source, socket_address("2001:db8::7", 0))
                self.assertEqual(header.destination, socket_address("::1", 65535))

    def test_mapped(self) -> None:
        """An IPv4 address mapped into IPv6 is given as IPv4."""
        for text in ("::ffff:192.0.2.7", "::ffff:c000:207"):
            with self.subTest(text):
                header, _ = read(f"PROXY TCP6 {text} 2001:db8::1 50123 25\r\n".encode())
                assert header is not None
                self.assertEqual(header.source, CLIENT)

    def test_unknown(self) -> None:
        """UNKNOWN names nobody, and the rest of its line is ignored."""
        longest = b"PROXY UNKNOWN " + b"ffff:" * 15 + b"ffff 65535 65535"
        for line in (b"PROXY UNKNOWN", b"PROXY UNKNOWN x", b"PROXY UNKNOWN \xff\0 1 2 3 4 5", longest[:105]):
            with self.subTest(line):
                self.assertEqual(read(line + b"\r\nrest"), (ProxyHeader(1), b"rest"))

    def test_mistakes(self) -> None:
        """Anything else than the grammar's line is refused."""
        words = (
            "TCP4 192.0.2.7 198.51.100.1 50123",
            "TCP4 192.0.2.7 198.51.100.1 50123 25 ",
            "TCP4 192.0.2.7 198.51.100.1 50123 25 x",
            "TCP4  192.0.2.7 198.51.100.1 50123 25",
            " TCP4 192.0.2.7 198.51.100.1 50123 25",
            "TCP4\t192.0.2.7 198.51.100.1 50123 25",
            "TCP4 192.0.2.07 198.51.100.1 50123 25",
            "TCP4 192.0.2.256 198.51.100.1 50123 25",
            "TCP4 192.0.2 198.51.100.1 50123 25",
            "TCP4 not-an-address 198.51.100.1 50123 25",
            "TCP4 192.0.2.7 2001:db8::1 50123 25",
            "TCP4 2001:db8::7 2001:db8::1 50123 25",
            "TCP4 ١٩٢.0.2.7 198.51.100.1 50123 25",
            "TCP4 192.0.2.7 198.51.100.1 65536 25",
            "TCP4 192.0.2.7 198.51.100.1 050123 25",
            "TCP4 192.0.2.7 198.51.100.1 -1 25",
            "TCP4 192.0.2.7 198.51.100.1 +1 25",
            "TCP4 192.0.2.7 198.51.100.1 1_0 25",
            "TCP4 192.0.2.7 198.51.100.1  25",
            "TCP6 192.0.2.7 198.51.100.1 50123 25",
            "TCP6 fe80::1%eth0 ::1 50123 25",
            "TCP6 [::1] ::1 50123 25",
            "TCP6 1::2::3 ::1 50123 25",
            "UDP4 192.0.2.7 198.51.100.1 50123 25",
            "tcp4 192.0.2.7 198.51.100.1 50123 25",
            "UNKNOWNX",
            "unknown",
            "",
        )
        for text in words:
            with self.subTest(text):
                self.assert_refused(b"PROXY " + text.encode() + b"\r\n", "a PROXY line is not")

    def test_no_utf8(self) -> None:
        """Octets that are no text are refused like any other."""
        self.assert_refused(b"PROXY TCP4 \xff 198.51.100.1 50123 25\r\n", "a PROXY line is not")

    def test_bare_newlines(self) -> None:
        """Only CRLF ends the line; a bare CR or LF is refused before that."""
        for line in (b"PROXY UNKNOWN\n", b"PROXY UNKNOWN\rx", b"PROXY UNKNOWN \n\r\n", TCP4[:-2] + b"\nEHLO x\r\n"):
            with self.subTest(line):
                self.assert_refused(line, "a bare CR or LF in a PROXY line")

    def test_longest(self) -> None:
        """107 octets with the CRLF may be there, and not one more."""
        line = b"PROXY UNKNOWN " + b"x" * 91
        self.assertEqual(read(line + b"\r\n"), (ProxyHeader(1), b""))
        self.assert_refused(line + b"x\r\n", "a PROXY line of more than 107 octets")

    def test_endless(self) -> None:
        """A line without an end is refused when it is too long, not later."""
        reader = ProxyHeaderReader()
        reader.feed(b"PROXY UNKNOWN " + b"x" * 92)
        with self.assertRaises(SyntaxProblem):
            reader.feed(b"x")


class BlockTests(Assertions):
    """Version 2: addresses as octets."""

    def test_ipv4(self) -> None:
        """TCP over IPv4 has two addresses of 4 octets, then two ports."""
        self.assertEqual(read(block(INET) + b"rest"), (ProxyHeader(2, source=CLIENT, destination=SERVER), b"rest"))

    def test_ipv6(self) -> None:
        """TCP over IPv6 has two addresses of 16 octets, then two ports."""
        header, _ = read(block(INET6, family=0x21))
        source, destination = socket_address("2001:db8::7", 50123), socket_address("2001:db8::1", 25)
        self.assertEqual(header, ProxyHeader(2, source=source, destination=destination))

    def test_mapped(self) -> None:
        """An IPv4 address mapped into IPv6 is given as IPv4."""
        payload = ipaddress.IPv6Address("::ffff:192.0.2.7").packed + INET6[16:]
        header, _ = read(block(payload, family=0x21))
        assert header is not None
        self.assertEqual(header.source, CLIENT)

    def test_local(self) -> None:
        """LOCAL is the proxy's own connection; what else the header says is skipped, whatever it is."""
        for payload in (b"", INET, b"\xff" * 7):
            for family in (0x00, 0x11, 0xFF):
                with self.subTest(payload=payload, family=family):
                    data = block(payload, command=0x20, family=family) + b"rest"
                    self.assertEqual(read(data), (ProxyHeader(2, local=True), b"rest"))

    def test_nobody_named(self) -> None:
        """Families and protocols that have no TCP client leave it unknown."""
        cases = {0x00: b"", 0x01: b"\xff\xff", 0x10: INET, 0x12: INET, 0x22: INET6, 0x31: bytes(216), 0x32: bytes(216)}
        for family, payload in cases.items():
            with self.subTest(family=hex(family)):
                self.assertEqual(read(block(payload, family=family)), (ProxyHeader(2), b""))

    def test_too_short(self) -> None:
        """A block that does not hold its addresses is refused."""
        for family, size in ((0x11, 11), (0x12, 11), (0x21, 35), (0x31, 215), (0x11, 0)):
            with self.subTest(family=hex(family)):
                self.assert_refused(block(bytes(size), family=family), "too short for its addresses")

    def test_fixed_part(self) -> None:
        """Another version, an unknown command, family or protocol is refused as soon as it is there."""
        cases = {
            "version": (SIGNATURE + b"\x11", SIGNATURE + b"\x31", SIGNATURE + b"\x01"),
            "command": (SIGNATURE + b"\x22", SIGNATURE + b"\x2f"),
            "family": (SIGNATURE + b"\x21\x41", SIGNATURE + b"\x21\x13", SIGNATURE + b"\x21\xf0"),
        }
        for word, headers in cases.items():
            for data in headers:
                with self.subTest(data):
                    self.assert_refused(data, word)

    def test_size(self) -> None:
        """4 KiB may follow the fixed part, and not one octet more."""
        padding = tlv(0x04, bytes(MAX_PAYLOAD - len(INET) - 3))
        header, _ = read(block(INET + padding))
        assert header is not None
        self.assertEqual(header.source, CLIENT)
        self.assert_refused(block(INET, size=MAX_PAYLOAD + 1)[:16], "more than 4096 octets")


class TLVTests(Assertions):
    """What version 2 may say besides."""

    def header(self, *tlvs: bytes, family: int = 0x11, payload: bytes = INET) -> ProxyHeader:
        """Read a header that has *tlvs*."""
        header, rest = read(block(payload + b"".join(tlvs), family=family) + b"rest")
        assert header is not None
        self.assertEqual(rest, b"rest")
        return header

    def test_known(self) -> None:
        """ALPN, authority, unique id and name space are fields."""
        header = self.header(tlv(1, b"smtp"), tlv(2, "mx.bücher.example".encode()), tlv(5, b"\0id"), tlv(0x30, b"ns1"))
        self.assertEqual(
            (header.alpn, header.authority, header.unique_id, header.namespace),
            ("smtp", "mx.bücher.example", b"\0id", "ns1"),
        )

    def test_all(self) -> None:
        """All TLVs are kept as they came, unknown and repeated ones too."""
        header = self.header(tlv(0xEA, b"\1vpce"), tlv(4, b""), tlv(0xEA, b""))
        self.assertEqual(header.tlvs, ((0xEA, b"\1vpce"), (4, b""), (0xEA, b"")))

    def test_every_family(self) -> None:
        """TLVs stand behind the addresses of each family."""
        for family, payload in ((0x11, INET), (0x12, INET), (0x21, INET6), (0x31, bytes(216))):
            with self.subTest(family=hex(family)):
                self.assertEqual(self.header(tlv(5, b"id"), family=family, payload=payload).unique_id, b"id")

    def test_tls(self) -> None:
        """The SSL TLV says version, cipher, common name and algorithms."""
        subs = tlv(0x21, b"TLSv1.3") + tlv(0x22, "Zoë".encode()) + tlv(0x23, b"TLS_AES_256_GCM_SHA384")
        subs += tlv(0x24, b"RSA-SHA256") + tlv(0x25, b"RSA2048")
        self.assertEqual(
            self.header(tls_tlv(0x07, 0, subs)).tls,
            HeaderTLS("TLSv1.3", "TLS_AES_256_GCM_SHA384", "Zoë", True, "RSA-SHA256", "RSA2048"),
        )

    def test_no_tls(self) -> None:
        """Without the flag of TLS there was none, whatever else is said."""
        self.assertIsNone(self.header(tls_tlv(0x06, 0, tlv(0x21, b"TLSv1.3"))).tls)

    def test_verified(self) -> None:
        """A certificate is verified if there was one, in this connection or its session, and it was good."""
        cases = {(0x01, 0): False, (0x03, 0): True, (0x05, 0): True, (0x03, 1): False, (0x03, 18 << 8): False}
        for (client, verify), verified in cases.items():
            with self.subTest(client=client, verify=verify):
                tls = self.header(tls_tlv(client, verify)).tls
                assert tls is not None
                self.assertIs(tls.verified, verified)

    def test_text(self) -> None:
        """Octets that are no UTF-8 are escaped."""
        self.assertEqual(self.header(tlv(2, b"a\xffb")).authority, "a\\xffb")

    def test_truncated(self) -> None:
        """A TLV that does not fit in is refused, within the SSL TLV too."""
        good = tlv(5, b"id")
        cases = (good[:1], good[:2], good[:-1], tlv(0x20, b"\1\0\0\0"), tls_tlv(subs=good[:-1]), tls_tlv(subs=b"\x21"))
        for case in cases:
            with self.subTest(case):
                self.assert_refused(block(INET + case), "does not fit in")

    def test_twice(self) -> None:
        """What can be said once is refused the second time."""
        for kind in (1, 2, 5, 0x30):
            with self.subTest(kind=kind):
                self.assert_refused(block(INET + tlv(kind, b"a") + tlv(kind, b"b")), "twice")
        self.assert_refused(block(INET + tls_tlv() + tls_tlv()), "twice")
        self.assert_refused(block(INET + tls_tlv(subs=tlv(0x21, b"a") * 2)), "twice")

    def test_unique_id(self) -> None:
        """A unique id has at most 128 octets."""
        self.assertEqual(self.header(tlv(5, b"x" * 128)).unique_id, b"x" * 128)
        self.assert_refused(block(INET + tlv(5, b"x" * 129)), "a unique id of more than 128 octets")


class ChecksumTests(Assertions):
    """The CRC32C of a header."""

    def checked(self, *, at: int = 0, crc: bytes | None = None) -> bytes:
        """Make a header with a checksum, the right one if none is given; *at* octets of padding stand before it."""
        payload = INET + (tlv(4, bytes(at - 3)) if at else b"") + tlv(3, bytes(4))
        tail = tlv(5, b"id")
        blank = block(payload + tail)
        crc = struct.pack("!I", crc32c(blank)) if crc is None else crc
        return block(payload[:-4] + crc + tail)

    def test_vectors(self) -> None:
        """The sums are those of RFC 3720, Appendix B.4, and of the usual check word."""
        vectors = {
            b"": 0,
            b"123456789": 0xE3069283,
            bytes(32): 0x8A9136AA,
            b"\xff" * 32: 0x62A8AB43,
            bytes(range(32)): 0x46DD794E,
            bytes(range(31, -1, -1)): 0x113FDB5C,
        }
        for data, crc in vectors.items():
            with self.subTest(data):
                self.assertEqual(crc32c(data), crc)

    def test_good(self) -> None:
        """The right checksum is let pass, wherever it stands."""
        for at in (0, 3, 40):
            header, _ = read(self.checked(at=at))
            assert header is not None
            self.assertEqual((header.source, header.unique_id), (CLIENT, b"id"))

    def test_wrong(self) -> None:
        """A wrong checksum is refused, and so is one of another size."""
        for crc in (b"\0\0\0\0", b"\0\0\0", b"", b"\0" * 5):
            with self.subTest(crc):
                self.assert_refused(self.checked(crc=crc), "checksum")

    def test_any_octet(self) -> None:
        """A header with any octet behind its fixed part changed is refused."""
        good = self.checked()
        # Without its type it would be no checksum.
        places = set(range(16, len(good))) - {good.index(b"\x03\0\x04")}
        for place in places:
            bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
            with self.subTest(place=place), self.assertRaises(SyntaxProblem):
                read(bad)


class FeedTests(Assertions):
    """Bytes come in any pieces."""

    def test_cuts(self) -> None:
        """A header is the same however it is cut, and what follows it is given back."""
        tls = tls_tlv(3, 0, tlv(0x21, b"TLSv1.3"))
        for data in (TCP4, b"PROXY UNKNOWN\r\n", block(INET + tls), block(b"", command=0x20, family=0)):
            whole = read(data)
            for pieces in cuts(data + b"EHLO x\r\n"):
                reader = ProxyHeaderReader()
                header, rest = None, b""
                for piece in pieces:
                    if header is None:
                        header, rest = reader.feed(piece)
                    else:
                        rest += piece
                self.assertEqual((header, rest), (whole[0], b"EHLO x\r\n"))

    def test_strangers(self) -> None:
        """What cannot become a header is refused with its first wrong octet."""
        for data in (
            b"EHLO x\r\n",
            b"PROXZ",
            b"proxy TCP4",
            b"PROXY\r\n",
            SIGNATURE[:-1] + b"\r",
            b"\x16\x03\x01",
            b"\n",
        ):
            with self.subTest(data):
                self.assert_refused(data, "no PROXY header")

    def test_nothing(self) -> None:
        """No bytes change nothing."""
        reader = ProxyHeaderReader()
        self.assertEqual(reader.feed(b""), (None, b""))
        self.assertIsNotNone(reader.feed(TCP4)[0])

    def test_sentences(self) -> None:
        """A problem's sentence repeats none of the proxy's octets."""
        for data in (b"PROXY TCP4 secret\r\n", block(INET + tlv(0x22, b"secret") + b"\1")):
            with self.assertRaises(SyntaxProblem) as caught:
                read(data)
            self.assertNotIn("secret", str(caught.exception))

    @given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, block(size=40)]))
    def test_any(self, tail: bytes, start: bytes) -> None:
        """Any bytes are a header, the beginning of one, or refused."""
        try:
            header, rest = read(start + tail)
        except SyntaxProblem:
            return
        if header is None:
            self.assertEqual(rest, b"")
        else:
            self.assertTrue((start + tail).endswith(rest))

    @given(st.ip_addresses(), st.data())
    def test_any_address(self, ip: Any, data: Any) -> None:
        """Every address and port comes through, in both versions."""
        kind = st.ip_addresses(v=ip.version)
        destination = data.draw(kind)
        ports = data.draw(st.tuples(*[st.integers(0, 65535)] * 2))
        line = f"PROXY TCP{ip.version} {ip} {destination} {ports[0]} {ports[1]}\r\n".encode()
        payload = ip.packed + destination.packed + struct.pack("!HH", *ports)
        shown = getattr(ip, "ipv4_mapped", None) or ip
        for wire in (line, block(payload, family=0x11 if ip.version == 4 else 0x21)):
            header, _ = read(wire)
            assert header is not None
            self.assertEqual(header.source, SocketAddress(shown, ports[0]))
