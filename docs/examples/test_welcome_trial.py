from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from welcome import welcome

from smtpsvc.testing import ServerMixin


class WelcomeTests(ServerMixin, TestCase):
    async def test_sent(self):
        server = self.serve()
        await deferToThread(welcome, "Ann", "ann@example.com", port=server.port)
        [message] = await server.backend.wait_for(1)
        self.assertEqual(message.subject, "Welcome, Ann")
