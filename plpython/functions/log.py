WINDOW = 256 * 1024
MOST = 16 * 1024 * 1024

COLUMNS = (
    "severity",
    "sqlstate",
    "message",
    "detail",
    "hint",
    "context",
    "statement",
    "user_name",
    "database_name",
    "application_name",
    "process_id",
)


def recent_errors(plpy, wanted):
    if wanted is None or not 1 <= wanted <= 1000:
        plpy.error(
            f"there cannot be {'null' if wanted is None else wanted} errors",
            detail="1 to 1000 are possible.",
            hint="Leave it out for 20.",
            sqlstate="22023",
        )
    settings = log_settings(plpy)
    form, files = log_files(plpy, settings)
    found, budget = [], MOST
    for path in files:
        try:
            some, read = last_errors(path, form, wanted - len(found), budget, settings, lambda: plpy.execute("select"))
        except OSError as error:
            refuse_log(plpy, "55000", f"{path}: {error.strerror}.")
        found = some + found
        budget -= read
        if len(found) >= wanted or budget <= 0:
            break
    times = moments(plpy, found, settings["log_timezone"])
    rows = [row(without_secrets(entry), times[at], settings) for at, entry in enumerate(found)]
    return rows[::-1]


def last_errors(path, form, wanted, budget, settings, pause):
    """The last errors in a file, and how many bytes were read for them: more and more from its end."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        size = WINDOW
        while True:
            size = min(size, end, budget)
            file.seek(end - size)
            text = file.read(size).decode("utf-8", "replace")
            if size < end:
                text = text.partition("\n")[2]
            errors = parsed(form, text, size == end, settings, pause)
            if len(errors) >= wanted or size in (end, budget):
                return errors[-wanted:], size
            size *= 4


def moments(plpy, entries, zone):
    """When each was logged, by PostgreSQL's own clock of that zone."""
    texts = [(entry.get("time") or "")[:23].strip() for entry in entries]
    texts = [re.match(TIME, text)[0] if re.match(TIME, text) else None for text in texts]
    epochs = [entry.get("epoch") for entry in entries]
    convert = plpy.prepare(
        "select pg_catalog.to_char(coalesce(t.told::timestamp at time zone $3, pg_catalog.to_timestamp(t.epoch))"
        " at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS') || '+00' as moment"
        " from unnest($1, $2) with ordinality as t (told, epoch, place) order by t.place",
        ["text[]", "float8[]", "text"],
    )
    return [one["moment"] for one in plpy.execute(convert, [texts, epochs, zone])]


def row(entry, moment, settings):
    values = {name: printable(entry.get(name), settings["server_encoding"]) for name in COLUMNS}
    return {"logged_at": moment, **values}


def printable(value, encoding):
    """A text that this database can hold."""
    if not isinstance(value, str):
        return value
    text = value.replace("\0", "")
    if len(text) > LONGEST:
        text = text[:LONGEST] + " ..."
    return text if encoding == "UTF8" else text.encode("ascii", "backslashreplace").decode()
