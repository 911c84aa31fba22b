"""
``python -m smtpsvc``: the service in the foreground, where ``twistd`` is not on the PATH.
"""

from __future__ import annotations

import runpy
import sys

from twisted.python.usage import UsageError


def main() -> None:
    """
    Do what ``twist --log-format=text smtpsvc …`` does, with the options of this command line.

    The log is text also where it goes to a file or a pipe, because a person started this;
    ``twist smtpsvc`` writes JSON there. Options of twist itself (reactor, log file) are twist's.

    :raises SystemExit: with 1 and one line on stderr if the options do not fit together.
    """
    sys.argv[1:] = ["--log-format=text", "smtpsvc", *sys.argv[1:]]
    try:
        # "python -m twisted" is twist's public name; its class is in a private module.
        runpy.run_module("twisted", run_name="__main__")
    except UsageError as error:
        sys.exit(f"smtpsvc: {error}")


if __name__ == "__main__":
    main()
