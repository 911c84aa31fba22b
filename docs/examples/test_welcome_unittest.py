import asyncio
import unittest

from welcome import welcome

from smtpsvc.testing import ThreadedServer


class WelcomeTests(unittest.TestCase):
    def test_sent(self):
        with ThreadedServer() as server:
            welcome("Ann", "ann@example.com", port=server.port)
            [message] = server.wait_for(1)
        self.assertEqual(message.subject, "Welcome, Ann")


class AsyncioTests(unittest.IsolatedAsyncioTestCase):
    async def test_sent(self):
        async with ThreadedServer() as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            self.assertTrue((await reader.readline()).startswith(b"220 "))
            writer.close()
            await asyncio.to_thread(welcome, "Ann", "ann@example.com", port=server.port)
            messages = await asyncio.to_thread(server.wait_for, 1)
        self.assertEqual(messages[0].subject, "Welcome, Ann")
