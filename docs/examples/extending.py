from smtpsvc import Extension, Reply
from smtpsvc.grammar.commands import parse_nothing
from smtpsvc.grammar.params import number
from smtpsvc.grammar.states import ANY
from smtpsvc.server.verbs import Verb


class Hold(Extension):
    """XHOLD: ``MAIL FROM:<...> XHOLD=600`` asks the backend to deliver ten minutes later."""

    keyword = "XHOLD"
    mail_params = {"XHOLD": number(9)}

    def __init__(self, longest):
        self.longest = longest

    def advertise(self, conversation):
        return str(self.longest)

    def mail(self, conversation, envelope):
        if envelope.mail_params["XHOLD"] > self.longest:
            return Reply(501, f"No message is held for more than {self.longest} seconds", "5.5.4")
        return None


def hold(seconds="86400"):
    return Hold(number(9)(seconds))


class Time(Extension):
    """XTIME: a verb that tells the time of a clock."""

    keyword = "XTIME"

    def __init__(self, clock):
        self.clock = clock
        self.verbs = {"XTIME": Verb(allowed=ANY, parse=parse_nothing, proceed=self.tell)}

    def tell(self, conversation, _):
        return Reply(250, f"{self.clock.seconds():.0f}", "2.0.0")
