import os
import resource


def host_checks(plpy):
    """Every check; what cannot be read is UNKNOWN and keeps nobody else from being read."""
    spaces = plpy.execute(
        "select t.oid, t.spcname from pg_catalog.pg_tablespace as t"
        " where t.spcname not in ('pg_default', 'pg_global') order by t.spcname"
    )
    files = int(plpy.execute("select pg_catalog.current_setting('max_files_per_process') as files")[0]["files"])
    checks = [
        ("disk_data", disk, 80, 90, "."),
        ("disk_wal", disk, 80, 90, "pg_wal"),
        *((f"disk_tablespace_{s['spcname']}", disk, 80, 90, f"pg_tblspc/{s['oid']}") for s in spaces),
        ("host_memory", memory, 10, 5, None),
        ("swap", swap, 50, 80, None),
        ("load", load, 2, 4, None),
        ("open_files", open_files, 80, 90, None),
        ("file_limit", file_limit, files - 1, files // 2, files),
    ]
    return [examined(*check) for check in checks]


def examined(name, measure, warning, critical, subject):
    try:
        value, message, remedy = measure(subject)
    except (OSError, KeyError, IndexError, ValueError, ArithmeticError) as error:
        value, message = None, f"it cannot be read: {error}"
        remedy = "See that it is there, and that the server's user may read it; /proc is Linux's."
    return checked(name, value, warning, critical, message, remedy)


def disk(path):
    facts = os.statvfs(path)
    folder = os.path.realpath(path)
    # As df counts: space that is reserved for root is not available.
    used = facts.f_blocks - facts.f_bfree
    space = 100 * used / (used + facts.f_bavail)
    files = 100 * (facts.f_files - facts.f_ffree) / facts.f_files if facts.f_files else 0
    free = size(facts.f_bavail * facts.f_frsize)
    message = f"{folder}: {space:.1f} % used, {free} ({facts.f_bavail * facts.f_frsize} bytes) free"
    if files > space:
        message += f"; {files:.1f} % of its inodes used, {facts.f_favail} free"
    remedy = f"Grow the file system of {folder} or free space there; never delete files of the server itself."
    if path == "pg_wal":
        remedy += " What keeps WAL: select * from pg_replication_slots; select * from pg_stat_archiver;"
    return round(max(space, files), 1), message, remedy


def meminfo():
    """/proc/meminfo in bytes."""
    with open("/proc/meminfo") as file:
        lines = [line.split() for line in file]
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines}


def memory(_):
    known = meminfo()
    available, total = known["MemAvailable"], known["MemTotal"]
    return (
        round(100 * available / total, 1),
        f"{size(available)} of {size(total)} available",
        "Look for the biggest processes; lower shared_buffers, work_mem or max_connections, or add memory.",
    )


def swap(_):
    known = meminfo()
    total, used = known["SwapTotal"], known["SwapTotal"] - known["SwapFree"]
    if not total:
        return 0, "there is no swap", "Nothing to do."
    return (
        round(100 * used / total, 1),
        f"{size(used)} of {size(total)} used",
        "The machine is short of memory: see the check host_memory.",
    )


def load(_):
    average, processors = os.getloadavg()[1], len(os.sched_getaffinity(0))
    return (
        round(average / processors, 2),
        f"{average:.2f} processes on average of 5 minutes, for {processors} processors",
        "See what runs: select pid, state, query from pg_stat_activity where state = 'active'; and top.",
    )


def open_files(_):
    with open("/proc/sys/fs/file-nr") as file:
        opened, _, most = map(int, file.read().split())
    return (
        round(100 * opened / most, 1),
        f"{opened} of the {most} files that the machine may have open",
        "Raise fs.file-max (sysctl), or look for the process that opens so many (lsof).",
    )


def file_limit(files):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    unlimited = limit == resource.RLIM_INFINITY
    return (
        2**31 if unlimited else limit,
        f"a server process may open {'any number of' if unlimited else limit} files, and wants up to {files}",
        "Raise the server's limit (LimitNOFILE= of its systemd unit, or ulimit -n), or lower max_files_per_process.",
    )
