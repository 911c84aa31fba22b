"""
Deliver to mailing lists.

The argument is a file that has the address of each list on a line; messages go to ./archive.
"""

from lists import FileArchive, FileDirectory, ListBackend


def make(argument, reactor):
    if not argument:
        raise ValueError("which lists? write lists:FILE, where FILE has an address on each line")
    return ListBackend(FileDirectory(argument), FileArchive("archive"))
