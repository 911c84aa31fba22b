from twisted.application import service
from twisted.internet import endpoints, reactor

from smtpsvc import MailService, Settings
from smtpsvc.backends.maildir import MaildirBackend

application = service.Application("intranet")
mail = MailService(MaildirBackend("Maildir", reactor), Settings(hostname="mx.example.org"))
mail.listen(endpoints.serverFromString(reactor, "tcp:2525:interface=127.0.0.1"))
mail.setServiceParent(application)
