"""
The options of ``twistd smtpsvc`` that say where mail goes.
"""

from __future__ import annotations

from typing import Any

from smtpsvc.backends.route import Route, parse_route
from smtpsvc.interfaces import IBackend
from smtpsvc.plugins import find_backend


class RouteOptions:
    """A part of :class:`smtpsvc.tap.Options`."""

    def opt_route(self, text: str) -> None:
        """
        Send some mail to another backend: PATTERN=NAME:ARGUMENT, such as example.com=maildir:/var/mail; may be
        given several times, and the first that fits counts. A pattern is a domain, .domain for those below it,
        user@domain, account:NAME, role:NAME, listener:PLACE or * for all. What none fits goes to --backend.
        """
        self._routes().append(text)

    def routed_backend(self, reactor: Any) -> IBackend:
        """
        Make the backend that the options ask for; descriptions that are equal mean one backend.

        :raises ValueError: with a sentence that names the option.
        """
        options: Any = self
        made: dict[str, Any] = {}

        def make(description: str) -> Any:
            if description not in made:
                made[description] = find_backend(description, reactor)
            return made[description]

        try:
            default: IBackend = make(options["backend"])
        except ValueError as error:
            raise ValueError(f"--backend: {error}") from error
        routes = []
        for text in self._routes():
            try:
                pattern, description = parse_route(text)
                routes.append((pattern, make(description)))
            except ValueError as error:
                raise ValueError(f"--route: {error}") from error
        return Route(routes, default) if routes else default

    def shown_routes(self) -> list[str]:
        """Say what was given, a line each."""
        return [f"route = {text}" for text in self._routes()]

    def _routes(self) -> list[str]:
        options: Any = self
        found: list[str] = options.setdefault("route", [])
        return found
