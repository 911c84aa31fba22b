import pytest
from welcome import welcome

from smtpsvc.testing import ScriptedBackend, drop


def test_sent(smtp_server):
    assert welcome("Ann", "ann@example.com", port=smtp_server.port)
    [message] = smtp_server.messages
    assert message.recipients == ("ann@example.com",)
    assert message.subject == "Welcome, Ann"
    assert message.text == "Make yourself at home.\n"


@pytest.mark.smtp_server(tls="starttls", accounts={"shop": "secret"})
def test_private(smtp_server):
    context = smtp_server.ssl_context()
    assert welcome("Ann", "ann@example.com", port=smtp_server.port, tls=context, login=("shop", "secret"))
    assert smtp_server.messages[0].account == "shop"
    assert smtp_server.messages[0].tls.version == "TLSv1.3"


def test_tries_again(make_smtp_server):
    backend = ScriptedBackend(rcpt=[451, drop()])
    server = make_smtp_server(backend)
    assert welcome("Ann", "ann@example.com", port=server.port)
    assert len(backend.called("rcpt")) == 3


def test_gives_up(make_smtp_server):
    server = make_smtp_server(ScriptedBackend(rcpt=550))
    assert not welcome("Ann", "nobody@example.com", port=server.port)
