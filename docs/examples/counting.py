from smtpsvc.server.watch import Monitor


class Count(Monitor):
    """Counts messages by the code of their reply."""

    def __init__(self):
        self.messages = {}

    def message(self, envelope, size, seconds, replies):
        for reply in replies:
            self.messages[reply.code] = self.messages.get(reply.code, 0) + 1
