import time

from aiosmtpd.controller import Controller


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if not address.endswith("@example.org"):
            return "550 5.7.1 Not here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        print(envelope.mail_from, envelope.rcpt_tos, envelope.content.splitlines()[-1])
        return "250 OK"


controller = Controller(Handler(), hostname="127.0.0.1", port=2525)
controller.start()
while True:
    time.sleep(60)
