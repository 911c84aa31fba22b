from pathlib import Path

from twisted.internet.threads import deferToThread

from smtpsvc import Backend, Delivery, PermanentError, Session


class ListBackend(Backend):
    """Takes mail for the lists that a directory knows, and gives it to an archive."""

    def __init__(self, directory, archive):
        self.directory = directory
        self.archive = archive

    def open_session(self, peer, connection):
        return ListSession(self)


class ListSession(Session):
    """One connection."""

    def __init__(self, backend):
        self.backend = backend

    async def rcpt(self, envelope, recipient):
        if not await self.backend.directory.knows(recipient.address):
            raise PermanentError("No such list", "5.1.1")

    def data(self, envelope):
        return ListDelivery(self.backend.archive, envelope)


class ListDelivery(Delivery):
    """One message; it is in memory until it is complete."""

    def __init__(self, archive, envelope):
        self.archive = archive
        self.envelope = envelope
        self.content = bytearray()

    def write(self, content):
        self.content += content

    def finish(self):
        return self.archive.keep(self.envelope, self.content)

    def abort(self, reason):
        self.content.clear()


class FileDirectory:
    """A list exists if a file has its address on a line of its own."""

    def __init__(self, path):
        self.path = Path(path)

    def knows(self, address):
        return deferToThread(lambda: str(address) in self.path.read_text().split())


class FileArchive:
    """Each message is a file, named by its transaction."""

    def __init__(self, path):
        self.path = Path(path)

    async def keep(self, envelope, content):
        await deferToThread((self.path / f"{envelope.id}.eml").write_bytes, content)


def make():
    """What --backend python:lists.make calls."""
    return ListBackend(FileDirectory("lists.txt"), FileArchive("archive"))
