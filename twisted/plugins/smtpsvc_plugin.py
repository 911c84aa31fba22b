"""
What ``twistd`` and smtpsvc find here: the service, and the backends by name.

Twisted imports this file for everybody who asks for plugins, so it loads nothing of a
backend or of the service: each object knows a dotted name and imports it on use.
"""

from twisted.application.service import ServiceMaker

from smtpsvc.plugins import BackendFactory

service = ServiceMaker(
    "smtpsvc",
    "smtpsvc.tap",
    "A mail service: takes mail by SMTP and keeps it.",
    "smtpsvc",
)

maildir = BackendFactory(
    "maildir",
    "smtpsvc.backends.maildir:make",
    "DIR",
    "Keep each message as a file in the Maildir DIR, on disk before the client hears 250.",
)
null = BackendFactory(
    "null",
    "smtpsvc.backends.null:make",
    "",
    "Take every message and keep nothing; for measurements.",
)
debug = BackendFactory(
    "debug",
    "smtpsvc.backends.debug:make",
    "",
    "Print each message and keep nothing; for trying clients out.",
)
python = BackendFactory(
    "python",
    "smtpsvc.dotted:make",
    "pkg.mod.factory",
    "Call the Python function of that dotted name; it returns the backend.",
)
