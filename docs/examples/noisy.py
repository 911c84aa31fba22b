import re
from dataclasses import dataclass

from smtpsvc import Policy, Reply


@dataclass
class Shouting:
    """How much of a subject is in capitals."""

    share: float


class Quiet(Policy):
    """
    Refuse mail that shouts, and say in its header how much the others do.

    :param most: the share of capitals in a subject that is taken.
    """

    name = "quiet"

    def __init__(self, most=0.8):
        self.most = most

    def examine(self, envelope, held):
        subject = held.header.find("Subject")
        letters = re.sub(rb"[^A-Za-z]", b"", subject.value) if subject else b""
        shouting = Shouting(sum(letter < 97 for letter in letters) / len(letters) if letters else 0.0)
        if shouting.share > self.most:
            return Reply(554, "Do not shout", "5.6.0")
        envelope.results.put(shouting)
        held.header.insert(b"X-Shouting: %d%%\r\n" % (100 * shouting.share))
