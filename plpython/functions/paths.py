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
    folder = os.path.realpath(folder)
    return reach_from_above(folder) or reach_into(folder)


def reach_from_above(path):
    """As reach_of_others(), for the path itself and all that it is in."""
    reason = others_in(path)
    while not reason and path != os.path.dirname(path):
        path = os.path.dirname(path)
        # In a folder such as /tmp others may make something, but they may not replace what is another's.
        reason = others_in(path, may_be_sticky=True)
    return reason


def reach_into(folder):
    """As reach_of_others(), for all that is in the folder: a library's own folder is loaded from as well."""
    for base, folders, files in os.walk(folder):
        for path in (os.path.join(base, name) for name in folders + files):
            reason = reach_from_above(os.path.realpath(path)) if os.path.islink(path) else others_in(path)
            if reason:
                return reason
    return None


def others_in(path, may_be_sticky=False):
    """Who else may write to this one file or folder, but not to what is above it."""
    if not os.path.isfile(path) and not os.path.isdir(path):
        # A link to nothing or to a device, or a file that was just taken away: nothing to load.
        return None
    facts = os.stat(path)
    if facts.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to the user with number {facts.st_uid}."
    if may_be_sticky and facts.st_mode & stat.S_ISVTX:
        return None
    if facts.st_mode & stat.S_IWOTH:
        return f"Everybody may write to {path}."
    # Also where an access control list says so: the group's bits are then the most that anybody has.
    if facts.st_mode & stat.S_IWGRP:
        return f"The group with number {facts.st_gid} may write to {path}."
    return None
