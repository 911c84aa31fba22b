from smtpsvc import Policy, TemporaryError


class Greylist(Policy):
    """
    Ask senders that are new to come back later; real mail servers do.

    :param clock: has ``seconds()``: the reactor, or a Clock in tests.
    :param delay: in seconds.
    """

    def __init__(self, clock, delay=60):
        self.clock = clock
        self.delay = delay
        self.first_seen = {}

    def rcpt(self, envelope, recipient):
        key = (envelope.peer.host, str(envelope.sender), str(recipient))
        now = self.clock.seconds()
        if now - self.first_seen.setdefault(key, now) < self.delay:
            raise TemporaryError("Try again later", "4.7.1", code=450)
