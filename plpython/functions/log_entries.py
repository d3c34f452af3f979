import csv
import gettext
import io
import json

ERRORS = ("ERROR", "FATAL", "PANIC")
OTHERS = ("DEBUG", "LOG", "INFO", "NOTICE", "WARNING")
# What a line of the stderr format may begin with, and the column that it goes to.
PARTS = {
    "DETAIL": "detail",
    "HINT": "hint",
    "CONTEXT": "context",
    "STATEMENT": "statement",
    "QUERY": "query",
    "LOCATION": "location",
    "BACKTRACE": "backtrace",
}
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?"
NAME = ".{0,100}?"
# The escapes of log_line_prefix; those that are not told apart are read over.
ESCAPES = {
    "a": ("application_name", NAME),
    "u": ("user_name", NAME),
    "d": ("database_name", NAME),
    "p": ("process_id", r"\d+"),
    "t": ("time", rf"{TIME}(?: \S+)"),
    "m": ("time", rf"{TIME}(?: \S+)"),
    "n": ("epoch", r"\d+\.\d+"),
    "e": ("sqlstate", "[0-9A-Z]{5}"),
}
JSON_KEYS = {
    "timestamp": "time",
    "error_severity": "severity",
    "state_code": "sqlstate",
    "internal_query": "query",
    "user": "user_name",
    "dbname": "database_name",
    "pid": "process_id",
}
CSV_COLUMNS = (
    *("time", "user_name", "database_name", "process_id", "connection_from", "session_id", "line", "command_tag"),
    *("session_start", "vxid", "xid", "severity", "sqlstate", "message", "detail", "hint", "query", "query_position"),
    *("context", "statement", "statement_position", "location", "application_name"),
)
CSV_START = re.compile(rf"^{TIME} [^,]+,", re.MULTILINE)


def words(settings):
    """The server's words in the language of its messages, each with what it is in English."""
    domain = f"postgres-{int(settings['server_version_num']) // 10000}"
    translate = gettext.translation(domain, settings["localedir"], fallback=True).gettext
    known = {}
    for word in (*ERRORS, *OTHERS, *PARTS):
        # A part's colon and spaces belong to what is translated.
        translated = translate(f"{word}:  ").rstrip(": ") if word in PARTS else translate(word)
        known[translated], known[word] = word, word
    return known


def parsed(form, text, is_whole, settings):
    """The errors in text, which is whole or begins anywhere, as dictionaries in the order of the log."""
    known = words(settings)
    if form == "jsonlog":
        found = json_entries(text)
    elif form == "csvlog":
        found = csv_entries(text, is_whole)
    else:
        return stderr_entries(text, settings["log_line_prefix"], known)
    for entry in found:
        entry["severity"] = known.get(entry.get("severity"), "")
    return [entry for entry in found if entry["severity"] in ERRORS]


def json_entries(text):
    entries = []
    for line in text.split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            # Cut off by the window, or still being written.
            continue
        if isinstance(entry, dict):
            entries.append({JSON_KEYS.get(key, key): value for key, value in entry.items()})
    return entries


def csv_entries(text, is_whole):
    """A line of a message may look like the start of an entry: the right start is followed by nothing else."""
    csv.field_size_limit(len(text) + 1)
    starts = [0] if is_whole else [found.start() for found in CSV_START.finditer(text)][:100]
    best = []
    for start in starts:
        rows = list(csv.reader(io.StringIO(text[start:], newline="")))
        right = [row for row in rows if len(row) >= len(CSV_COLUMNS) and CSV_START.match(f"{row[0]},")]
        if len(right) > len(best):
            best = right
        # The last may still be being written.
        if len(right) >= len(rows) - 1:
            break
    return [{name: row[at] or None for at, name in enumerate(CSV_COLUMNS)} for row in best]


def prefix_expression(prefix):
    """log_line_prefix as a regular expression."""
    expression, ends, seen = "", "", set()
    for escape, other in re.findall(r"%(-?\d*[a-zA-Z%])|(.)", prefix, re.DOTALL):
        letter = escape[-1:]
        if letter == "q":
            expression, ends = expression + "(?:", ")?"
        elif letter in ("", "%"):
            expression += re.escape(other or "%")
        else:
            name, content = ESCAPES.get(letter, (None, NAME))
            group = f"(?P<{name}>{content})" if name and name not in seen else f"(?:{content})"
            seen.add(name)
            # With a width there are spaces on the one side or the other.
            expression += f" *{group} *" if len(escape) > 1 else group
    return expression + ends


def stderr_entries(text, prefix, known):
    label = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    end = rf"(?P<label>{label}):\s+(?P<text>.*)"
    exact = re.compile(prefix_expression(prefix) + end, re.DOTALL)
    # Written when log_line_prefix was another one.
    loose = re.compile(rf"(?P<time>{TIME} \S+)?.*?(?:\[(?P<process_id>\d+)\].*?)?(?<!\w){end}", re.DOTALL)
    entries, entry, place = [], None, None
    for line in text.split("\n"):
        if line.startswith("\t"):
            if entry is not None and place:
                entry[place] += "\n" + line[1:]
            continue
        # A prefix is short; what follows it may be a statement of megabytes.
        found = exact.match(line[:1000]) or loose.match(line[:1000])
        word = known[found["label"]] if found else None
        place = PARTS.get(word)
        if word in PARTS:
            if entry is not None:
                entry[place] = line[found.start("text") :]
            continue
        entry = None
        if word in ERRORS:
            entry, place = new_entry(found, line[found.start("text") :], word), "message"
            entries.append(entry)
    return entries


def new_entry(found, message, severity):
    told = {name: value for name, value in found.groupdict().items() if name not in ("label", "text")}
    entry = {name: value.strip() or None for name, value in told.items() if value is not None}
    # As log_error_verbosity = verbose writes it.
    state = re.match(r"([0-9A-Z]{5}): ", message)
    if state and not entry.get("sqlstate"):
        entry["sqlstate"], message = state[1], message[state.end() :]
    return {**entry, "severity": severity, "message": message}
