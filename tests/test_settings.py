"""Tests of smtpsvc.settings: defaults, checks, and sizes as people write them."""

from __future__ import annotations

import math
import socket
from dataclasses import FrozenInstanceError
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.settings import (
    AUTH_LINE,
    KIB,
    MIB,
    BareNewline,
    Limits,
    Role,
    Settings,
    default_hostname,
    format_size,
    parse_size,
)
from tests.support import given, st


class LimitsTests(SynchronousTestCase):
    def check(self, option: str, **limits: Any) -> None:
        """The limits are refused with a sentence that names the option."""
        with self.subTest(**limits):
            error = self.assertRaises(ValueError, Limits, **limits)
            self.assertTrue(str(error).startswith(option + ": "), str(error))
            self.assertGreater(len(str(error)), len(option) + 20)

    def test_defaults(self) -> None:
        """32 MiB, 100 recipients, lines of 2000 octets, 300 seconds for a command and 180 for content."""
        limits = Limits()
        self.assertEqual((limits.message_size, limits.recipients, limits.line_length), (32 * MIB, 100, 2000))
        self.assertEqual((limits.command_timeout, limits.data_timeout, limits.hook_timeout), (300, 180, 300))
        self.assertEqual((limits.read_ahead, AUTH_LINE), (64 * KIB, 12288))

    def test_wrong(self) -> None:
        """A limit that could serve nobody is refused, and the sentence names its option."""
        self.check("--max-message-size", message_size=-1)
        self.check("--max-recipients", recipients=0)
        self.check("--max-recipients", recipients=-1)
        self.check("--max-line-length", line_length=511)
        for wrong in (0, -1, math.nan):
            self.check("--timeout", command_timeout=wrong)
            self.check("--data-timeout", data_timeout=wrong)
            self.check("--hook-timeout", hook_timeout=wrong)
        self.check("read_ahead", read_ahead=4 * KIB - 1)
        self.check("--max-errors", errors=-1)
        self.check("--max-connections-per-client", connections_per_client=-1)
        self.check("--stress", stress_timeout=-1)
        self.check("--greet-delay", greet_delay=61)
        self.check("--max-buffered", buffered=MIB - 1)

    def test_edges(self) -> None:
        """The least that could serve somebody is taken."""
        Limits(message_size=0, recipients=1, line_length=512, command_timeout=0.1, data_timeout=0.1, read_ahead=4 * KIB)

    def test_frozen(self) -> None:
        """Limits do not change."""
        with self.assertRaises(FrozenInstanceError):
            Limits().recipients = 7  # type: ignore[misc]


class SettingsTests(SynchronousTestCase):
    def check(self, option: str, **fields: Any) -> None:
        """The settings are refused with a sentence that names the option."""
        with self.subTest(**fields):
            error = self.assertRaises(ValueError, Settings, **{"hostname": "mx.example", **fields})
            self.assertTrue(str(error).startswith(option + ": "), str(error))

    def test_defaults(self) -> None:
        """Without a word: bare newlines are refused, paths strict, Received: written, nobody trusted."""
        settings = Settings()
        self.assertIs(settings.bare_newline, BareNewline.REJECT)
        self.assertEqual((settings.lenient_paths, settings.add_received, settings.trusted_proxies), (False, True, ()))
        self.assertFalse(settings.allow_insecure_auth)
        self.assertEqual((settings.limits, settings.banner), (Limits(), "ESMTP smtpsvc"))

    def test_hostname(self) -> None:
        """The host name is a domain or an address literal, in ASCII."""
        good = ("mx.example", "localhost", "MX-1.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "xn--bcher-kva.example")
        for name in good:
            with self.subTest(name=name):
                self.assertEqual(Settings(hostname=name).hostname, name)
        for name in ("", "a b", "mx.", ".mx", "mx_1", "-mx", "bücher.example", "192.0.2.1]", "[mx]", "mx\n", "x" * 64):
            self.check("--hostname", hostname=name)

    def test_banner(self) -> None:
        """The banner is printable ASCII, or empty."""
        for banner in ("", "ESMTP", "a (b) ~"):
            self.assertEqual(Settings(hostname="mx.example", banner=banner).banner, banner)
        for banner in ("a\r\n250 b", "a\nb", "\0", "\x7f", "grüß", "\u2028", "a\tb"):
            self.check("--banner", banner=banner)

    def test_banner_length(self) -> None:
        """Banner and host name fit in one line of the greeting."""
        self.assertEqual(len(Settings(hostname="mx.example", banner="x" * 490).banner), 490)
        self.check("--banner", banner="x" * 491)

    def test_frozen(self) -> None:
        """Settings do not change."""
        with self.assertRaises(FrozenInstanceError):
            Settings().banner = "x"  # type: ignore[misc]


class HostnameTests(SynchronousTestCase):
    def named(self, name: str) -> str:
        """Ask for the default on a host of this name."""
        self.patch(socket, "gethostname", lambda: name)
        return default_hostname()

    def test_of_the_host(self) -> None:
        """The default is what the host calls itself."""
        for name in ("mx.example", "box"):
            self.assertEqual(self.named(name), name)

    def test_no_domain(self) -> None:
        """A host whose name is no domain is localhost, so that the service starts all the same."""
        for name in ("", "my_box", "mx.", "bücher", "(none)"):
            with self.subTest(name=name):
                self.assertEqual(self.named(name), "localhost")
                self.assertEqual(Settings().hostname, "localhost")

    def test_no_dns(self) -> None:
        """DNS is not asked."""

        def asked(*_: object) -> None:
            raise AssertionError("asked DNS")

        for name in ("getfqdn", "gethostbyname", "gethostbyaddr", "getaddrinfo"):
            self.patch(socket, name, asked)
        self.assertTrue(default_hostname())


class SizeTests(SynchronousTestCase):
    def test_read(self) -> None:
        """Sizes are bytes, or have K, M or G in either case, for powers of 1024."""
        cases = {"0": 0, "1000": 1000, "1K": KIB, "1k": KIB, "32M": 32 * MIB, "2g": 2048 * MIB, " 7 ": 7, "007": 7}
        for text, size in cases.items():
            with self.subTest(text=text):
                self.assertEqual(parse_size(text), size)

    def test_wrong(self) -> None:
        """Anything else is refused with a sentence that says how to write it."""
        wrong = ("", " ", "K", "-1", "+1", "1.5M", "1 K", "1KB", "1MiB", "1T", "0x10", "1_000", "٣", "²", "9" * 16)
        for text in wrong:
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, parse_size, text)
                self.assertIn("32M", str(error))

    def test_shown(self) -> None:
        """A size is shown with the largest suffix that fits exactly."""
        cases = {0: "0", 1: "1", 1023: "1023", KIB: "1K", KIB + 1: "1025", 32 * MIB: "32M"}
        cases |= {1024 * MIB: "1G", 1536 * MIB: "1536M"}
        for size, text in cases.items():
            with self.subTest(size=size):
                self.assertEqual(format_size(size), text)

    @given(st.integers(0, 10**15 - 1) | st.integers(0, 10**5).map(lambda n: n * MIB))
    def test_round_trip(self, size: int) -> None:
        """What is shown is read as the same size."""
        self.assertEqual(parse_size(format_size(size)), size)


class NameTests(SynchronousTestCase):
    def test_words(self) -> None:
        """Roles and choices have the words of the command line as values."""
        self.assertEqual([role.value for role in Role], ["smtp", "submission", "lmtp"])
        self.assertEqual([choice.value for choice in BareNewline], ["reject", "normalize"])
