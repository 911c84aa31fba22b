from email.message import EmailMessage

from smtpsvc import Recipient
from smtpsvc.client import Fate, Login, Mailer, Refused, Route, connect
from smtpsvc.client import send as send_one
from smtpsvc.grammar.addresses import parse_mailbox
from smtpsvc.parameters import Notify, Ret


async def post(server):
    """Send one message, to whom it says itself."""
    message = EmailMessage()
    message["From"] = "Anna <anna@example.com>"
    message["To"] = "bert@example.org"
    message["Bcc"] = "cleo@example.net"
    message["Subject"] = "Lunch?"
    message.set_content("At twelve?\n")
    report = await send_one(message, server=server, tls="none")
    for each in report.recipients:
        print(each)


async def newsletter(server, readers, message):
    """Send a message to each reader, and find out whom to ask for another address."""
    gone = []
    async with Mailer(server, tls="none") as mailer:
        reports = [mailer.send(message, "news@example.com", reader) for reader in readers]
        for report in reports:
            [reader] = (await report).recipients
            if reader.fate is Fate.REFUSED:
                gone.append(reader.address)
    return gone


def branches(office):
    """Make a mailer that knows a shorter way to some domains."""
    return Mailer(hostname="mail.example.com", routes={"example.com": office, ".example.com": office})


OFFICE = Route(servers=("mail.office.example.com", "backup.office.example.com"))


async def send(where, message):
    """Send one message, and say goodbye."""
    async with await connect(where, tls="none") as connection:
        result = await connection.send("anna@example.com", ["bert@example.org", "cleo@example.org"], message)
    for address, reply in result.refused.items():
        print(f"not for {address}: {reply}")
    return result


async def submit(where, message, password, trust=None):
    """Log in to the server of one's provider, whose certificate must be good."""
    login = Login("anna", password)
    async with await connect(where, login=login, trust=trust, server_name="mx.example") as connection:
        return await connection.send("anna@example.com", ["bert@example.org"], message)


async def notify(where, message):
    """Ask for a notification of success, for one of the recipients."""
    bert = Recipient(parse_mailbox("bert@example.org"), {"NOTIFY": {Notify.SUCCESS, Notify.FAILURE}})
    async with await connect(where, tls="none") as connection:
        return await connection.send(
            "anna@example.com", [bert, "cleo@example.org"], message, params={"RET": Ret.HDRS, "ENVID": "invoice 17"}
        )


async def stream(where, source):
    """Send what is made while it is sent."""

    async def lines():
        yield b"Subject: numbers\r\n\r\n"
        async for number in source:
            yield b"%d\r\n" % number

    async with await connect(where, tls="none") as connection:
        return await connection.send("anna@example.com", ["bert@example.org"], lines())


async def attempt(where, message):
    """Find out what to do with a message that was not sent."""
    try:
        return await send(where, message)
    except Refused as error:
        return "later" if error.temporary else f"never: {error.reply}"


async def step_by_step(where, pieces):
    """Hand each reply on before the next step, as a relay does."""
    async with await connect(where, tls="none") as connection:
        transaction = connection.transaction()
        print(await transaction.mail("anna@example.com"))
        print(await transaction.rcpt("bert@example.org"))
        refusal = await transaction.data()
        if refusal is not None:
            transaction.abort()
            return refusal
        for piece in pieces:
            room = transaction.write(piece)
            if room is not None:
                await room
        result = await transaction.finish()
        return result.reply
