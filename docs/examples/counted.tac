from hello import backend
from twisted.application import service
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString

from smtpsvc import MailService
from smtpsvc.metrics import Metrics, attach

application = service.Application("counted")
metrics = Metrics()
mail = MailService(backend, monitors=[metrics])
mail.listen(serverFromString(reactor, "tcp:2525:interface=127.0.0.1"))
attach(mail, metrics, serverFromString(reactor, "tcp:9100:interface=127.0.0.1"), reactor)
mail.setServiceParent(application)
