"""
The rules of chaos: what goes wrong, and how often.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from smtpsvc.grammar.replies import Reply
from smtpsvc.settings import parse_size

__all__ = ["Dice", "Rule", "Rules", "parse_rules"]

#: The actions that each step may have besides a code and ``delay``.
STEPS: Final = {
    "connect": ("drop", "stall"),
    "helo": ("drop", "stall"),
    "mail": ("drop", "stall"),
    "rcpt": ("drop", "stall"),
    "data": ("drop", "stall"),
    "content": ("drop", "stall", "cut"),
    "end": ("drop", "stall", "unsaid", "lie"),
    "each": (),
}

_CHANCE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%")
_PLACE = re.compile(r"([@/])([1-9]\d{0,8})")
_TIME = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(ms|s|m)?")
_CODE = re.compile(r"[45]\d\d")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}

#: No delay is longer.
_LONGEST: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that goes wrong."""

    #: As it was written.
    text: str
    #: Where; one of :data:`STEPS`.
    step: str
    #: ``reply``, ``delay``, or what :data:`STEPS` has.
    action: str
    #: What the client is told.
    reply: Reply | None = None
    #: Of a delay.
    seconds: float = 0.0
    #: Of content, that come before it.
    octets: int = 0
    #: From 0 to 1.
    chance: float = 1.0
    #: The only time, counted from 1; 0 for any.
    nth: int = 0
    #: Every so many times; 0 for any.
    every: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """All that goes wrong, and the seed of it."""

    rules: tuple[Rule, ...]
    seed: int

    def __str__(self) -> str:
        return ",".join([*(rule.text for rule in self.rules), f"seed={self.seed}"])


def parse_rules(text: str) -> Rules:
    """
    Read rules.

    :param text: ``STEP:ACTION[:HOW-OFTEN]``, separated by commas; among them ``seed=NUMBER``.
    :returns: with a seed by chance, if there is none.
    :raises ValueError: with a sentence.
    """
    rules: list[Rule] = []
    seed: int | None = None
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals:
            rules.append(_rule(item))
        elif name != "seed":
            raise ValueError(f"{item!r}: there is only seed= here; and to= behind everything else")
        elif seed is not None:
            raise ValueError("seed= is there twice")
        elif not (value.isascii() and value.isdigit() and len(value) <= 18):
            raise ValueError(f"{item!r}: a seed is a number of up to 18 digits")
        else:
            seed = int(value)
    if not rules:
        raise ValueError("nothing is to go wrong; write such as rcpt:451:10%")
    return Rules(tuple(rules), secrets.randbelow(10**6) if seed is None else seed)


def _rule(item: str) -> Rule:
    step, _, rest = item.partition(":")
    if step not in STEPS:
        raise ValueError(f"{item!r}: {step!r} is no step; there are {', '.join(STEPS)}")
    words = rest.split(":") if rest else []
    if not words:
        raise ValueError(f"{item!r}: what shall happen? Write a code, delay:2s, {_listed(step)}")
    chance, nth, every = 1.0, 0, 0
    how_often = words.pop() if len(words) > 1 and words[-1][-1:] == "%" else ""
    if how_often:
        chance = _chance(how_often, item)
    elif len(words) > 1 and words[-1][:1] in ("@", "/"):
        found = _PLACE.fullmatch(words.pop())
        if found is None:
            raise ValueError(f"{item!r}: write @3 for the third time only, or /3 for every third")
        nth, every = (int(found[2]), 0) if found[1] == "@" else (0, int(found[2]))
    action, reply, seconds, octets = _action(step, words, item)
    return Rule(item, step, action, reply, seconds, octets, chance, nth, every)


def _action(step: str, words: list[str], item: str) -> tuple[str, Reply | None, float, int]:
    action, *argument = words
    if len(argument) > 1 or (argument and action not in ("delay", "cut")):
        raise ValueError(f"{item!r}: {':'.join(argument)!r} is no chance; write such as 10%, @3 or /3")
    if _CODE.fullmatch(action):
        return "reply", Reply(int(action), "Chaos"), 0.0, 0
    if action == "delay":
        return action, None, _seconds(argument[0] if argument else "", item), 0
    if action not in STEPS[step]:
        raise ValueError(
            f"{item!r}: {action!r} cannot be at {step}; write a code from 400 to 599, delay:2s, {_listed(step)}"
        )
    if action != "cut":
        return action, None, 0.0, 0
    if not argument:
        raise ValueError(f"{item!r}: cut needs a size, such as cut:10K")
    try:
        return action, None, 0.0, parse_size(argument[0])
    except ValueError as error:
        raise ValueError(f"{item!r}: {error}") from error


def _listed(step: str) -> str:
    return " or ".join(["cut:10K" if action == "cut" else action for action in STEPS[step]]) or "and nothing else"


def _chance(text: str, item: str) -> float:
    found = _CHANCE.fullmatch(text)
    if found is None or float(found[1]) > 100:
        raise ValueError(f"{item!r}: {text!r} is no chance; write from 0% to 100%")
    return float(found[1]) / 100


def _seconds(text: str, item: str) -> float:
    found = _TIME.fullmatch(text)
    seconds = float(found[1]) * _UNITS[found[2]] if found is not None else -1
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"{item!r}: {text!r} is no time up to an hour; write such as 2s, 500ms or 1m")
    return seconds


@dataclass(slots=True)
class Dice:
    """
    Says for one connection what goes wrong.

    What chance says depends on the seed, the connection's number and what it did before alone, and so not on
    what other clients do meanwhile.

    :param rules: of one step each.
    :param counts: how often each rule was looked at; shared by all connections.
    """

    rules: dict[str, Sequence[Rule]]
    chance: random.Random
    counts: dict[Rule, int] = field(default_factory=dict)

    def roll(self, step: str) -> list[Rule]:
        """Give the rules that strike now, in their order."""
        return [rule for rule in self.rules.get(step, ()) if self._strikes(rule)]

    def _strikes(self, rule: Rule) -> bool:
        if rule.nth or rule.every:
            count = self.counts[rule] = self.counts.get(rule, 0) + 1
            return count == rule.nth if rule.nth else count % rule.every == 0
        return rule.chance == 1 or self.chance.random() < rule.chance
