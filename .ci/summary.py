"""
Count what passed and failed in a run of tox, from its ``--result-json``.

    summary.py RESULTS STATUS

An environment that runs trial counts by its tests, any other as one. A skipped test, an
environment that could not be set up and a trial without tests are failures, since each of them
would hide one. Interpreters that this machine lacks do not count.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
OUTCOME = re.compile(r"^(?:PASSED|FAILED)(?: \((.*)\))?$", re.MULTILINE)
COUNT = re.compile(r"(\w+)=(\d+)")
GOOD = {"successes", "expectedFailures"}


def count_trial(output: str) -> tuple[int, int] | None:
    """
    Read the last line of trial, such as ``FAILED (skips=1, failures=2, successes=30)``.

    :returns: how many tests passed and failed, a skip being a failure; None if trial did not run to its end.
    """
    outcomes = OUTCOME.findall(ESCAPES.sub("", output).replace("\r\n", "\n"))
    if not outcomes:
        return None
    passed = failed = 0
    for name, number in COUNT.findall(outcomes[-1]):
        if name in GOOD:
            passed += int(number)
        else:
            failed += int(number)
    return passed, failed


def count_environment(result: dict[str, Any]) -> tuple[int, int, bool]:
    """
    Count one environment of tox.

    :returns: passed, failed, and whether it ran trial.
    """
    runs = result.get("test", [])
    sound = bool(runs) and all(run["retcode"] == 0 for run in runs)
    trials = [run for run in runs if "twisted.trial" in run["command"]]
    if not trials:
        return int(sound), int(not sound), False
    passed = failed = 0
    for run in trials:
        good, bad = count_trial(run.get("output", "")) or (0, 1)
        passed += good
        failed += bad or int(not good)
    return passed, failed or int(not sound), True


def environments(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Go through the environments that were run; those that tox builds packages in have no result."""
    for name, result in results.get("testenvs", {}).items():
        if "result" in result and not result["result"]["skipped"]:
            yield name, result


def main(path: str, status: int) -> int:
    """
    Print a line for each environment, and the closing line.

    :returns: the exit status: 0 if nothing failed and tests were run.
    """
    text = Path(path).read_text(encoding="utf-8")
    results = json.loads(text) if text.strip() else {}
    passed = failed = 0
    tested = False
    for name, result in environments(results):
        good, bad, trial = count_environment(result)
        print(f"{name}: {good} passed, {bad} failed")
        passed += good
        failed += bad
        tested = tested or trial
    if not tested:
        print("no tests were run")
        failed += 1
    if status and not failed:
        print(f"tox ended with status {status}")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
