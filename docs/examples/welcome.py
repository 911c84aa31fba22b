"""Welcome people by mail: the application that the page on testing tests."""

import smtplib
from email.message import EmailMessage


def welcome(name, address, *, host="localhost", port=25, tls=None, login=None, tries=3):
    """
    Send a welcome.

    :param tls: an ``ssl.SSLContext``, to begin TLS with.
    :param login: a name and a password.
    :returns: False if the address is refused for good.
    """
    message = EmailMessage()
    message["From"] = "Shop <shop@shop.example>"
    message["To"] = address
    message["Subject"] = f"Welcome, {name}"
    message.set_content("Make yourself at home.\n")
    for _ in range(tries):
        try:
            with smtplib.SMTP(host, port) as client:
                if tls is not None:
                    client.starttls(context=tls)
                if login is not None:
                    client.login(*login)
                client.send_message(message)
            return True
        except smtplib.SMTPRecipientsRefused as error:
            [(code, _)] = error.recipients.values()
            if code >= 500:
                return False
        except smtplib.SMTPServerDisconnected:
            pass
    raise RuntimeError(f"no luck after {tries} tries")
