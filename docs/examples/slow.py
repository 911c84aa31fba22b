from smtpsvc import Monitor


class Slow(Monitor):
    """Notes which hooks let clients wait for long."""

    def __init__(self, limit):
        self.limit = limit
        self.seen = []

    def waited(self, peer, hook, seconds):
        if seconds > self.limit:
            self.seen.append(f"{hook} took {seconds:.1f} s for {peer.host}")
