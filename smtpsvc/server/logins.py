"""
Logins: the part of a conversation that knows who its client is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smtpsvc.server.channel import Channel
from smtpsvc.server.hooks import Hooks
from smtpsvc.values import Peer

if TYPE_CHECKING:
    from smtpsvc.grammar.trace import Received
    from smtpsvc.interfaces import IAccount
    from smtpsvc.server.factory import SMTPFactory


class Logins(Hooks):
    """The part of a conversation that takes logins and forgets them."""

    __slots__ = ("_leave", "trace")

    def __init__(self, channel: Channel, factory: SMTPFactory, peer: Peer) -> None:
        super().__init__(channel, factory, peer)
        #: The prepared beginning of ``Received:``, made for the first message after a greeting or a login.
        self.trace: Received | None = None
        self._leave: Callable[[], object] | None = None

    def login(self, account: IAccount, mechanism: str = "", logout: Callable[[], object] | None = None) -> None:
        """
        The client is logged in: fill ``peer.account``.

        :param mechanism: how, for the monitors; "" if nothing was judged here.
        :param logout: called once when the connection ends or STARTTLS makes it begin anew.
        """
        self.logout()
        self.peer.account = account
        self._leave = logout
        # ``with ESMTPA`` (RFC 4954 §7).
        self.trace = None
        watch = self.factory.watch.login
        if watch is not None and mechanism:
            watch(self.peer, mechanism, True)

    def login_refused(self, mechanism: str) -> None:
        """Tell the monitors that a client's credentials were refused."""
        watch = self.factory.watch.login
        if watch is not None:
            watch(self.peer, mechanism, False)

    def logout(self) -> None:
        """Forget who the client is, if it is known."""
        self.peer.account = None
        self.trace = None
        self.leave()

    def leave(self) -> None:
        """Let the account's realm know that the client is done with it; who it was stays known."""
        leave, self._leave = self._leave, None
        if leave is not None:
            self.background(leave)
