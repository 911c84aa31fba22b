"""
Keep mail in a Maildir, as a part of an application that twistd runs.

    twistd -n -y maildir.tac
    MAIL_ENDPOINT=tcp:25 MAILDIR=/var/mail/in twistd -y maildir.tac
"""

import os

from twisted.application import service
from twisted.internet import endpoints, reactor

from smtpsvc import MailService, Settings
from smtpsvc.backends.maildir import MaildirBackend

where = os.environ.get("MAIL_ENDPOINT", "tcp:2525:interface=127.0.0.1")
backend = MaildirBackend(os.environ.get("MAILDIR", "Maildir"))

application = service.Application("maildir")
mail = MailService(backend, Settings(hostname="mx.example.org"))
mail.listen(endpoints.serverFromString(reactor, where))
mail.setServiceParent(application)
