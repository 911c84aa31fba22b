"""
Policies: checks that stand between the server and any backend.

:mod:`smtpsvc.policies.chain` puts them there and has the base class to make your own.
"""
