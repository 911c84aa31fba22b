"""
Tests of smtpsvc; run by trial.

Hypothesis runs without deadlines (a slow machine is no failure), and derandomized where ``CI`` is
set; elsewhere it prints the seed that repeats a failure.
"""

import os

from hypothesis import settings

settings.register_profile("local", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

if os.environ.get("SMTPSVC_WIRE"):
    from tests import overwire

    settings.register_profile("sockets", settings(max_examples=5))
    settings.load_profile("sockets")
    overwire.install(os.environ["SMTPSVC_WIRE"])
