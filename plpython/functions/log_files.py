import glob
import os
import re

# Preferred in this order: the first says most, the last least.
FORMATS = {"jsonlog": ".json", "csvlog": ".csv", "stderr": ".log"}

ASK_FOR = """
    select s.name, s.setting from pg_catalog.pg_settings as s
    where s.name in (
        'logging_collector', 'log_destination', 'log_filename', 'log_line_prefix', 'log_timezone', 'server_encoding',
        'server_version_num'
    )
    union all
    select 'localedir', c.setting from pg_catalog.pg_config() as c where c.name = 'LOCALEDIR'
"""


def log_settings(plpy):
    return {one["name"]: one["setting"] for one in plpy.execute(ASK_FOR)}


def log_files(plpy, settings):
    """The format of the log, and its files, the newest first."""
    destinations = [one.strip() for one in settings["log_destination"].split(",")]
    if settings["logging_collector"] == "off":
        return "stderr", [standard_error(plpy, destinations)]
    wanted = [one for one in FORMATS if one in destinations]
    if not wanted:
        refuse_log(plpy, "0A000", f"log_destination is {settings['log_destination']}.")
    ask = plpy.prepare("select pg_catalog.pg_current_logfile($1) as path", ["text"])
    for form in wanted:
        path = plpy.execute(ask, [form])[0]["path"]
        if path:
            return form, [path, *earlier(path, settings["log_filename"], FORMATS[form])]
    return refuse_log(plpy, "55000", "The server has not opened a log file yet.")


def standard_error(plpy, destinations):
    """The file that who started the server has its standard error go to."""
    if "stderr" not in destinations:
        refuse_log(plpy, "0A000", f"logging_collector is off, log_destination is {', '.join(destinations)}.")
    try:
        path = os.readlink("/proc/self/fd/2")
        if os.path.isfile(path) and os.path.samefile(path, "/proc/self/fd/2"):
            return path
    except OSError as error:
        path = str(error)
    return refuse_log(
        plpy, "0A000", f"logging_collector is off, and the server's standard error is no file but {path}."
    )


def earlier(path, pattern, ending):
    """The other files of the same log, the newest first: log_filename with anything in the place of its escapes."""
    name = re.sub("%.", "*", glob.escape(pattern))
    if ending != FORMATS["stderr"]:
        name = name.removesuffix(".log") + ending
    found = [one for one in glob.glob(os.path.join(os.path.dirname(path), name)) if os.path.isfile(one)]
    others = [one for one in found if not os.path.samefile(one, path)] if os.path.exists(path) else found
    return sorted(others, key=os.path.getmtime, reverse=True)


def refuse_log(plpy, sqlstate, detail):
    plpy.error(
        "the server's log cannot be read from here",
        detail=detail,
        hint="Look where it goes: journalctl -u postgresql, /var/log/syslog or /var/log/postgresql. Or have the server"
        " write files: alter system set logging_collector = on; alter system set log_destination = 'jsonlog';"
        " and restart it.",
        sqlstate=sqlstate,
    )
