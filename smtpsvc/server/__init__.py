"""
The server floor: one connection, from bytes to replies and back. It listens nowhere.
"""
