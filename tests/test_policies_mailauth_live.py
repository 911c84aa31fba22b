"""
Tests of the policies spf, dkim, arc and dmarc in a running service, and of their settings.
"""

from __future__ import annotations

import smtplib
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc import extras
from smtpsvc.message.fields import Header
from smtpsvc.policies import senderpolicy
from smtpsvc.policyoptions import find_policy
from tests.live import Server
from tests.mailauth import PLAIN, signed, zone
from tests.nameserver import NameServer


class LiveTests(SynchronousTestCase):
    def test_service(self) -> None:
        """A service asks the DNS, verifies in its threads, refuses what is false, and tells what it found."""
        records = {
            "_dmarc.x.example": ["TXT v=DMARC1; p=reject"],
            "x.example": ["TXT v=spf1 ip4:192.0.2.7 -all"],
            "mail.x.example": ["A 192.0.2.9"],
        }
        dns = NameServer(zone(records))
        self.addCleanup(dns.close)
        names = ("fcrdns:require=nothing", "spf:record-only", "dkim", "arc", "dmarc")
        policies = [f"--policy={name}" for name in names]
        options = ("--dns-server", dns.option, "--trusted-proxies", "127.0.0.1", "--hostname", "mx.example", *policies)
        server = Server(*options)
        self.addCleanup(server.close)
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname="mail.x.example", timeout=60) as client:
            client.ehlo()
            client.docmd("XCLIENT", "ADDR=192.0.2.8")
            client.ehlo()
            client.sendmail("ann@x.example", ["b@y.example"], signed())
            with self.assertRaises(smtplib.SMTPDataError) as caught:
                client.sendmail("ann@x.example", ["b@y.example"], PLAIN)
        self.assertEqual((caught.exception.smtp_code, caught.exception.smtp_error[:6]), (550, b"5.7.26"))
        (mail,) = server.mails()
        [told] = Header(mail).find_all("Authentication-Results")
        for word in ("spf=none smtp.helo", "spf=fail reason=", "dkim=pass", "arc=none", "dmarc=pass", "iprev="):
            self.assertIn(word.encode(), told.value)
        self.assertTrue(mail.endswith(signed()))


class SettingsTests(SynchronousTestCase):
    def test_settings(self) -> None:
        """The policies take their settings, and say in a sentence what is wrong with one."""
        for text in (
            "spf:record-only,helo=no,on-failure=accept,permerror=accept,timeout=5s,id=mx.example",
            "dkim:require=any,most=5,size=1M,on-failure=accept",
            "arc:list.example,next.example,most=3,size=1M",
            "dmarc:record-only,reject=quarantine,on-failure=accept,size=1M,warn-only,except=192.0.2.0/24",
        ):
            with self.subTest(text):
                self.assertEqual(find_policy(text, Reactor()).name, text.partition(":")[0])
        for text, words in (
            ("spf:helo=maybe", "'maybe' is not one of yes, no"),
            ("dkim:require=all", "'all' is not one of any, nothing"),
            ("arc:-", "arc: "),
            ("dmarc:id=a b", "'a b' is no name of a host"),
            ("dmarc:reject=451", "'451' is not one of 550, quarantine"),
        ):
            with self.subTest(text):
                self.assertIn(words, str(self.assertRaises(ValueError, find_policy, text, Reactor())))

    def test_missing(self) -> None:
        """Without the libraries, each policy says how to install them."""

        def missing(name: str) -> Any:
            raise ImportError(name)

        self.patch(extras, "import_module", missing)
        senderpolicy.library.cache_clear()
        self.addCleanup(senderpolicy.library.cache_clear)
        for name in ("spf", "dkim", "arc", "dmarc"):
            with self.subTest(name):
                error = self.assertRaises(ValueError, find_policy, name, Reactor())
                self.assertIn("pip install 'smtpsvc[mailauth]'", str(error))


class Reactor:
    """A reactor that is not used before mail comes."""
