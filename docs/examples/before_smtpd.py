import asyncore
import smtpd


class Server(smtpd.SMTPServer):
    def process_message(self, peer, mailfrom, rcpttos, data, **options):
        if mailfrom == "spam@example.com":
            return "550 5.7.1 Not from you"
        print(mailfrom, rcpttos, data.splitlines()[-1])


Server(("127.0.0.1", 2525), None)
asyncore.loop()
