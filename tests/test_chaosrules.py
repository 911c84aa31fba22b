"""Tests of smtpsvc.backends.chaosrules: what goes wrong, and how often."""

from __future__ import annotations

import random
import re

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.chaosrules import STEPS, Dice, Rule, parse_rules
from smtpsvc.grammar.replies import Reply
from tests.support import given, st

WORDS = st.sampled_from(
    [*STEPS, *("451", "554", "delay", "2s", "drop", "stall", "cut", "10K", "10%", "@3", "/2", "seed", "=7", ":", ",")]
)


def rule(text: str) -> Rule:
    """Read one rule."""
    [found] = parse_rules(text).rules
    return found


class ParseTests(SynchronousTestCase):
    def test_actions(self) -> None:
        """A rule has a step, an action, and how often it strikes."""
        self.assertEqual(rule("rcpt:451:10%").reply, Reply(451, "Chaos"))
        self.assertEqual((rule("rcpt:451:10%").step, rule("rcpt:451:10%").chance), ("rcpt", 0.1))
        self.assertEqual((rule("mail:delay:2s").action, rule("mail:delay:2s").seconds), ("delay", 2))
        for text, seconds in (("500ms", 0.5), ("1m", 60), ("3", 3), ("1.5s", 1.5), ("0", 0)):
            self.assertEqual(rule(f"end:delay:{text}:5%").seconds, seconds)
        self.assertEqual((rule("content:cut:10K:1%").octets, rule("content:cut:10K:1%").chance), (10240, 0.01))
        for action in ("drop", "stall", "unsaid", "lie"):
            self.assertEqual((rule(f"end:{action}").action, rule(f"end:{action}").chance), (action, 1))

    def test_how_often(self) -> None:
        """How often is a percentage, one time, or each of so many."""
        self.assertEqual([rule(f"rcpt:drop:{chance}").chance for chance in ("0%", "0.5%", "100%")], [0, 0.005, 1])
        self.assertEqual((rule("rcpt:drop:@3").nth, rule("rcpt:drop:/3").every), (3, 3))

    def test_several(self) -> None:
        """Rules stay in their order; the seed is one of them, or a number by chance, and all can be read again."""
        rules = parse_rules("rcpt:451:10%, data:drop:5%,seed=42,")
        self.assertEqual([each.step for each in rules.rules], ["rcpt", "data"])
        self.assertEqual((rules.seed, str(rules)), (42, "rcpt:451:10%,data:drop:5%,seed=42"))
        self.assertEqual(parse_rules(str(rules)), rules)
        self.assertGreater(len({parse_rules("rcpt:451").seed for _ in range(20)}), 1)

    def test_mistakes(self) -> None:
        """A mistake is a sentence that has what was written, and what to write."""
        for text, words in (
            ("", "write such as rcpt:451:10%"),
            ("seed=1", "nothing is to go wrong"),
            ("recipient:451", "'recipient' is no step; there are connect, helo, mail, rcpt, data, content, end, each"),
            ("rcpt", "what shall happen? Write a code, delay:2s, drop or stall"),
            ("rcpt:", "what shall happen?"),
            ("rcpt:250", "'250' cannot be at rcpt; write a code from 400 to 599, delay:2s, drop or stall"),
            ("rcpt:600", "cannot be"),
            ("rcpt:lie", "'lie' cannot be at rcpt"),
            ("each:drop", "'drop' cannot be at each"),
            ("rcpt:451:110%", "'110%' is no chance; write from 0% to 100%"),
            ("rcpt:451:x%", "is no chance"),
            ("rcpt:451:5", "'5' is no chance; write such as 10%, @3 or /3"),
            ("rcpt:451:@0", "write @3 for the third time only"),
            ("mail:delay", "'' is no time"),
            ("mail:delay:10%", "'' is no time"),
            ("mail:delay:2h", "'2h' is no time up to an hour; write such as 2s, 500ms or 1m"),
            ("mail:delay:61m", "no time"),
            ("content:cut", "cut needs a size"),
            ("content:cut:x", "is no size"),
            ("mail:delay:2s:3:10%", "is no chance"),
            ("rcpt:451,seed=x", "a seed is a number"),
            ("rcpt:451,seed=1,seed=2", "twice"),
            ("rcpt:451,too=null:", "there is only seed= here; and to= behind everything else"),
        ):
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, parse_rules, text)
                self.assertIn(words, str(error))

    @given(st.lists(WORDS, max_size=12))
    def test_any(self, words: list[str]) -> None:
        """Whatever is written is rules that can be read again, or one sentence."""
        text = "".join(words)
        try:
            rules = parse_rules(text)
        except ValueError as error:
            self.assertNotIn("\n", str(error))
            self.assertFalse(re.match("invalid literal|could not convert", str(error)))
        else:
            self.assertEqual(parse_rules(str(rules)), rules)


class DiceTests(SynchronousTestCase):
    def dice(self, *texts: str, seed: int = 1) -> Dice:
        """Make dice of rules for RCPT."""
        return Dice({"rcpt": [rule(text) for text in texts]}, random.Random(seed))

    def test_chance(self) -> None:
        """About as many strike as the chance says; 0% never, 100% always; the same with the same seed."""
        first, again = self.dice("rcpt:451:10%"), self.dice("rcpt:451:10%")
        found = [bool(first.roll("rcpt")) for _ in range(1000)]
        self.assertTrue(60 < sum(found) < 140)
        self.assertEqual([bool(again.roll("rcpt")) for _ in range(1000)], found)
        self.assertEqual(len(self.dice("rcpt:451:0%", "rcpt:452").roll("rcpt")), 1)
        self.assertEqual(self.dice("rcpt:451").roll("mail"), [])

    def test_places(self) -> None:
        """The third time only, and every third time."""
        dice = self.dice("rcpt:451:@3", "rcpt:452:/3")
        found = ["".join(each.text[5:8] for each in dice.roll("rcpt")) for _ in range(6)]
        self.assertEqual(found, ["", "", "451452", "", "", "452"])
