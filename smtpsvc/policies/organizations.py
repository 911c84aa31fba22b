"""
Which domains belong together, by the list of public suffixes.
"""

from __future__ import annotations

from smtpsvc.extras import need
from smtpsvc.grammar.addresses import parse_domain


class Organizations:
    """
    Knows which domains belong together: those below one that can be registered (RFC 7489 §3.2).

    :raises ValueError: with a sentence, if the library is not installed.
    """

    def __init__(self) -> None:
        self._list = need("publicsuffixlist", "mailauth", "DMARC").PublicSuffixList()

    def get_public_suffix(self, domain: str) -> str:
        """Give the domain that was registered; the name is what the library ``dmarc`` calls."""
        return self._list.privatesuffix(domain.lower()) or domain.lower()

    def has(self, domain: str, organization: str) -> bool:
        """Tell whether a domain is the organization's; what is no domain is nobody's."""
        try:
            return self.get_public_suffix(parse_domain(domain)) == organization
        except ValueError:
            return False
