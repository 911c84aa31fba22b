from smtpsvc.client import connect


async def send(made, where):
    """Send a notification from nobody, so that nobody is notified of it."""
    async with await connect(where, tls="none") as connection:
        return await connection.send(
            made.sender,
            [made.recipient],
            made.content,
            params=made.mail_params,
            recipient_params=made.rcpt_params,
        )
