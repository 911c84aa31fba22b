from gateway import Gateway
from twisted.trial.unittest import TestCase

from smtpsvc.client import Refused, connect
from smtpsvc.testing import ScriptedBackend, ServerMixin, drop

MAIL = b"Subject: hello\r\n\r\nhi\r\n"


class GatewayTests(ServerMixin, TestCase):
    async def send(self, script, *recipients):
        """Send through a gateway to a next server that follows a script."""
        self.next = self.serve(ScriptedBackend(**script))
        gateway = self.serve(Gateway(("127.0.0.1", self.next.port)))
        async with await connect(("127.0.0.1", gateway.port), tls="none") as connection:
            return await connection.send("me@example.com", recipients, MAIL)

    async def test_message(self):
        """A message arrives, with the field of the gateway."""
        await self.send({}, "you@example.org")
        [message] = self.next.backend.messages
        self.assertEqual(message.content, b"X-Gateway: gateway.example.org\r\n" + MAIL)

    async def test_unknown(self):
        """Whom the next server refuses, the gateway refuses."""
        result = await self.send({"rcpt": [550, None]}, "nobody@example.org", "you@example.org")
        self.assertEqual([reply.code for reply in result.refused.values()], [550])
        self.assertEqual(result.taken, ("you@example.org",))

    async def test_lost(self):
        """When the next server is lost before it has said 250, the client keeps the message."""
        with self.assertRaises(Refused) as caught:
            await self.send({"finish": drop()}, "you@example.org")
        self.assertEqual(str(caught.exception.reply.enhanced), "4.4.1")
