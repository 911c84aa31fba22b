import sys

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory

from smtpsvc import HeldPorts, MailService, Worker, Workers
from smtpsvc.backends.null import NullBackend


def parent(listener):
    ports = HeldPorts(reactor)
    opened = serverFromString(ports, listener).listen(Factory())
    workers = Workers([sys.executable, __file__, listener, "worker"], 2, ports, reactor=reactor)

    def asked(names):
        opened.addCallback(lambda port: print(*map(bytes.decode, names), "on", port.getHost(), flush=True))

    workers.listening.addCallback(lambda _: workers.ask(b"name").addCallback(asked))
    reactor.callWhenRunning(workers.startService)
    for stop in (ports.close, workers.stopService):
        reactor.addSystemEventTrigger("before", "shutdown", stop)


def worker(listener):
    me = Worker.join(reactor)
    mail = MailService(NullBackend())
    mail.listen(serverFromString(me.ports, listener))
    me.answer(b"name", lambda: b"worker %d" % me.number)
    me.serve(mail)


if __name__ == "__main__":
    (worker if sys.argv[2:] else parent)(sys.argv[1])
    reactor.run()
