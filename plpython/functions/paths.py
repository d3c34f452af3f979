import os
import stat
import sys


def fault(path):
    """Why Python may not look for libraries there; None if it may."""
    if not os.path.isabs(path):
        return "It is no absolute path."
    if not os.path.isdir(path):
        return "There is no such folder, or the server's user may not look into it."
    folder = library_folder(os.path.realpath(path))
    if not os.path.isdir(folder):
        version = ".".join(map(str, sys.version_info[:2]))
        return f"It is a virtual environment for another Python than the server's {version}: there is no {folder}."
    return reach_of_others(folder)


def library_folder(path):
    """Where the libraries are: in the folder itself, or deep inside it if it is a virtual environment."""
    if not os.path.isfile(os.path.join(path, "pyvenv.cfg")):
        return path
    version = "python{}.{}".format(*sys.version_info[:2])
    return os.path.join(path, "lib", version, "site-packages")


def reach_of_others(folder):
    """Who beside root and the server's user could put something there; None if nobody could."""
    path = os.path.realpath(folder)
    while True:
        facts = os.stat(path)
        if facts.st_uid not in (0, os.geteuid()):
            return f"{path} belongs to the user with number {facts.st_uid}."
        # In a folder such as /tmp others may make something, but they may not replace what is another's.
        is_shelter = path != os.path.realpath(folder) and facts.st_mode & stat.S_ISVTX
        if facts.st_mode & stat.S_IWOTH and not is_shelter:
            return f"Everybody may write to {path}."
        # Also where an access control list says so: the group's bits are then the most that anybody has.
        if facts.st_mode & stat.S_IWGRP and not is_shelter:
            return f"The group with number {facts.st_gid} may write to {path}."
        if path == os.path.dirname(path):
            return None
        path = os.path.dirname(path)
