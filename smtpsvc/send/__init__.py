"""
``python -m smtpsvc.send``: sends one message, for tries and scripts, and tells what becomes of it.
"""
