"""Ask senders that are new to come back later; delay= says when [default: 60s]."""

from greylist import Greylist


def make(arguments, reactor):
    return Greylist(reactor, arguments.seconds("delay", 60))
