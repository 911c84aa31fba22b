"""
Filter mail behind Postfix: mark what was looked at, and refuse what nobody wants.

    python content_filter.py
    python content_filter.py tcp:10025:interface=127.0.0.1 tcp:127.0.0.1:10026

Postfix hands each message to the filter by LMTP, and gets it back by SMTP, where it is not filtered again. In main.cf:

    content_filter = lmtp:[127.0.0.1]:10025

and in master.cf:

    127.0.0.1:10026 inet n - n - - smtpd
        -o content_filter=
        -o receive_override_options=no_unknown_recipient_checks,no_header_body_checks,no_milters
        -o mynetworks=127.0.0.0/8
        -o smtpd_recipient_restrictions=permit_mynetworks,reject

Postfix keeps a message in its queue until the filter has answered, and the filter answers when Postfix has taken the
message back: each recipient gets the answer that Postfix gave for it. So no message is lost if either is killed.
"""

import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet import defer, endpoints, task

from smtpsvc import (
    FunctionBackend,
    HeldMessage,
    Message,
    PermanentError,
    Policy,
    Reply,
    Role,
    Settings,
    SMTPFactory,
    TemporaryError,
    on_message,
    with_policies,
)
from smtpsvc.client import ClientError, connect
from smtpsvc.values import Envelope


class Filter(Policy):
    """Says which messages pass; yours may ask who it wants, and wait."""

    name = "filter"

    def examine(self, envelope: Envelope, held: HeldMessage) -> None:
        subject = held.header.find("Subject")
        if subject is not None and b"unwanted" in subject.value.lower():
            raise PermanentError("Nobody wants this", "5.7.1")
        held.header.insert(b"X-Filtered: by content_filter.py\r\n")


def hand_back(where: str, reactor: Any) -> FunctionBackend:
    """Make the backend that gives messages back to Postfix."""
    endpoint = endpoints.clientFromString(reactor, where)

    @on_message
    async def backend(message: Message) -> Sequence[Reply]:
        envelope = message.envelope
        try:
            async with await connect(endpoint, tls="none", reactor=reactor) as connection:
                with message.open() as file:
                    result = await connection.send(
                        envelope.sender, envelope.recipients, file, params=dict(envelope.mail_params)
                    )
        except ClientError as error:
            if error.reply is not None and not error.temporary:
                return [error.reply] * len(envelope.recipients)
            raise TemporaryError("Cannot hand it back now", "4.4.1") from error
        return [each.reply for each in result.recipients]

    return backend


async def main(
    reactor: Any, where: str = "tcp:10025:interface=127.0.0.1", back: str = "tcp:127.0.0.1:10026"
) -> None:
    backend = with_policies(hand_back(back, reactor), Filter())
    settings = Settings(hostname="filter.localhost", add_received=False)
    await endpoints.serverFromString(reactor, where).listen(SMTPFactory(backend, settings, role=Role.LMTP))
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
