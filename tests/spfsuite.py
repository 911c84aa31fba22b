"""
Runs the test suite for RFC 7208 against our evaluation: ``python -m tests.spfsuite rfc7208-tests.yml``.

The file is in the source package of pyspf, and needs PyYAML::

    pip download --no-deps --no-binary :all: pyspf && tar xf pyspf-*.tar.gz && pip install pyyaml
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from smtpsvc.policies.senderpolicy import check_spf
from tests.nameserver import fake_resolver

KINDS = ("A", "AAAA", "MX", "PTR", "TXT", "CNAME")


def records(given: Sequence[Any]) -> Iterator[str]:
    """Write the records of a name as a zone has them; those of type SPF, which is no more, are TXT if there is none."""
    pairs = [(kind, value) for each in given if isinstance(each, dict) for kind, value in each.items()]
    own = {kind for kind, _ in pairs}
    if "TIMEOUT" in given:
        # It holds for whatever the name has no record of.
        there = {kind for kind, value in pairs if value != "NONE"}
        yield from (f"SERVFAIL {kind}" for kind in KINDS if kind not in there)
    for kind, value in pairs:
        if kind == "SPF" and "TXT" not in own:
            kind = "TXT"
        if kind not in KINDS or value == "NONE":
            continue
        if value == "TIMEOUT":
            yield f"SERVFAIL {kind}"
        elif kind == "TXT":
            yield "TXT " + "|".join([value] if isinstance(value, str) else value)
        elif kind == "MX":
            yield f"MX {value[0]} {value[1] or '.'}"
        else:
            yield f"{kind} {value}"


def differences(scenario: Mapping[str, Any]) -> Iterator[str]:
    """Give a line for each test whose result is none of those that the suite wants, and "" for each that is."""
    zone = {name.lower().rstrip("."): list(records(given)) for name, given in scenario["zonedata"].items()}
    for id, test in scenario["tests"].items():
        wanted = [test["result"]] if isinstance(test["result"], str) else test["result"]
        outcome: list[Any] = []
        question = check_spf(fake_resolver(zone), test["host"], test["mailfrom"], test["helo"])
        Deferred.fromCoroutine(question).addBoth(outcome.append)
        result = outcome[0][0] if outcome and isinstance(outcome[0], tuple) else repr(outcome)
        yield "" if result in wanted else f"{id}: {result} and not {' or '.join(wanted)}"


def main(path: str) -> int:
    """Run the suite; give 1 if something differs."""
    import yaml

    lines = [line for each in yaml.safe_load_all(Path(path).read_bytes()) if each for line in differences(each)]
    wrong = list(filter(None, lines))
    print(*wrong, f"{len(lines)} tests, {len(wrong)} differ", sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
