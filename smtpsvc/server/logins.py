"""
Logins: the part of a conversation that knows who its client is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.server.faults import faults_of
from smtpsvc.server.hooks import Hooks
from smtpsvc.values import Login

if TYPE_CHECKING:
    from smtpsvc.grammar.trace import Received
    from smtpsvc.interfaces import IAccount
    from smtpsvc.server.faults import Faults


class Logins(Hooks):
    """The part of a conversation that takes logins and forgets them."""

    __slots__ = ("_leave", "faults", "trace")

    #: The prepared beginning of ``Received:``, made for the first message after a greeting or a login.
    trace: Received | None
    #: What has gone wrong, or None.
    faults: Faults | None
    _leave: Callable[[], object] | None

    if TYPE_CHECKING:

        def close(self, reply: Reply) -> None: ...

    def login_turn(self) -> Deferred[None] | None:
        """
        Wait until the client's credentials may be judged.

        :returns: None for now, or a Deferred.
        :raises SMTPError: 421 4.7.0, if others of its network wait already.
        """
        wait = self.factory.shared.guesses.wait(self.peer.address)
        if wait is None:
            raise SMTPError(replies.TOO_MANY_LOGINS)
        return deferLater(self.factory.clock, wait) if wait else None

    def login(self, account: IAccount, mechanism: str = "", logout: Callable[[], object] | None = None) -> None:
        """
        The client is logged in: fill ``peer.account``.

        :param mechanism: how, for the monitors; "" if nothing was judged here.
        :param logout: called once when the connection ends or STARTTLS makes it begin anew.
        """
        self.logout()
        if mechanism:
            self.factory.shared.guesses.succeeded(self.peer.address)
            self.peer.results.put(Login(mechanism))
        self.peer.account = account
        self._leave = logout
        # ``with ESMTPA`` (RFC 4954 §7).
        self.trace = None
        watch = self.factory.watch.login
        if watch is not None and mechanism:
            watch(self.peer, mechanism, True)

    def login_refused(self, mechanism: str) -> None:
        """A client's credentials were refused: count that, and tell the monitors."""
        faults = faults_of(self)
        faults.logins += 1
        self.factory.shared.guesses.failed(self.peer.address)
        limit = self.factory.settings.limits.auth_failures
        if limit and faults.logins >= limit:
            self.close(replies.TOO_MANY_LOGINS)
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
