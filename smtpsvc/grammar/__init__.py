"""
The grammar floor: pure functions and values, bytes in and values out.

Nothing here knows Twisted, a clock or a socket.
"""
