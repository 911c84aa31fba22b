from contextlib import contextmanager

from smtpsvc import Backend, Delivery, Session, TemporaryError
from smtpsvc.client import ClientError, connect


class Gateway(Backend):
    """Hands mail to the next server while it comes, and the replies of that to the client."""

    def __init__(self, next_server):
        self.next_server = next_server

    def open_session(self, peer, connection):
        return GatewaySession(self.next_server)


class GatewaySession(Session):
    """One client; each of its messages has a connection to the next server."""

    def __init__(self, next_server):
        self.next_server = next_server
        self.connection = self.transaction = None

    async def mail(self, envelope):
        self.leave()
        with hoping():
            self.connection = await connect(self.next_server, tls="none")
            self.transaction = self.connection.transaction()
            return await self.transaction.mail(envelope.sender, envelope.mail_params)

    async def rcpt(self, envelope, recipient):
        with hoping():
            return await self.transaction.rcpt(recipient)

    async def data(self, envelope):
        with hoping():
            refusal = await self.transaction.data()
        return refusal or GatewayDelivery(self.transaction)

    def reset(self, envelope, upgraded):
        self.leave()

    def close(self, reason):
        self.leave()

    def leave(self):
        if self.connection is not None:
            self.transaction.abort()
            self.connection.quit()
        self.connection = None


class GatewayDelivery(Delivery):
    """One message: what is written goes on at once, behind a field of our own."""

    def __init__(self, transaction):
        self.transaction = transaction
        self.field = b"X-Gateway: gateway.example.org\r\n"

    def write(self, content):
        content, self.field = self.field + content, b""
        return self.transaction.write(content)

    async def finish(self):
        with hoping():
            result = await self.transaction.finish()
        return result.reply

    def abort(self, reason):
        self.transaction.abort()


@contextmanager
def hoping():
    """Have the client try again later when the next server fails."""
    try:
        yield
    except ClientError as error:
        raise TemporaryError("The next mail server does not answer", "4.4.1") from error


def make():
    """What --backend python:gateway.make calls."""
    return Gateway(("127.0.0.1", 2526))
