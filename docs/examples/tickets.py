from smtpsvc import on_message
from smtpsvc.message import parse_in_thread


@on_message
async def backend(message):
    email = await parse_in_thread(message)
    print(email.from_[0].address, "asks:", email.subject)
    for file in email.attachments:
        print(" with", file.name, file.type, file.size, "bytes")
