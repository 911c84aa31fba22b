"""
The backends that come with smtpsvc: where mail goes.

Each is built on the interfaces alone, as a stranger's would be.
"""
