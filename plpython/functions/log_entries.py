import csv
import gettext
import io
import json

ERRORS = ("ERROR", "FATAL", "PANIC")
OTHERS = ("DEBUG", "LOG", "INFO", "NOTICE", "WARNING")
# What a line of the stderr format may begin with, in the order of the lines, and the column that it goes to.
PARTS = {
    "DETAIL": "detail",
    "HINT": "hint",
    "QUERY": "query",
    "CONTEXT": "context",
    "LOCATION": "location",
    "BACKTRACE": "backtrace",
    "STATEMENT": "statement",
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
CSV_START = re.compile(rf"{TIME} [^,]+,")
LINES_AT_ONCE = 1000
# Characters of a text that are told.
LONGEST = 4000
# What a client says of itself, and the classes of SQLSTATE that are no error.
CHOSEN = {"application_name", "user_name", "database_name"}
SUCCESS = ("00", "01", "02")


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


def parsed(form, text, is_whole, settings, pause):
    """The errors in text, which is whole or begins with any line, as dictionaries in the order of the log.

    pause() lets a cancellation through: nothing else looks for one while Python works.
    """
    known = words(settings)
    if form == "stderr":
        return stderr_entries(text, settings["log_line_prefix"], known, pause)
    found = json_entries(text, pause) if form == "jsonlog" else csv_entries(text, is_whole, pause)
    for entry in found:
        entry["severity"] = known.get(entry.get("severity"), "")
    return [entry for entry in found if entry["severity"] in ERRORS]


def lines(text, pause):
    """The lines of text, with a pause now and then; many may be in memory, but not as many as there are."""
    for number, line in enumerate(io.StringIO(text, newline="\n")):
        if number % LINES_AT_ONCE == 0:
            pause()
        yield line


def json_entries(text, pause):
    entries = []
    for line in lines(text, pause):
        try:
            entry = json.loads(line)
        except ValueError:
            # Still being written.
            continue
        if isinstance(entry, dict):
            entries.append({JSON_KEYS.get(key, key): value for key, value in entry.items()})
    return entries


def csv_entries(text, is_whole, pause):
    """An entry ends outside of quotes, and so does the log: the number of quotes tells whether text begins inside."""
    csv.field_size_limit(len(text) + 2)
    if not is_whole and text.count('"') % 2:
        text = '"' + text
    rows = csv.reader(lines(text, pause))
    return [
        {name: row[at] or None for at, name in enumerate(CSV_COLUMNS)}
        for row in rows
        # The first may be cut off, the last may still be being written.
        if len(row) >= len(CSV_COLUMNS) and CSV_START.match(f"{row[0]},")
    ]


def prefix_expression(prefix):
    """log_line_prefix as a regular expression; and whether the SQLSTATE stands before all that a client chooses."""
    expression, ends, seen = "", "", []
    for escape, other in re.findall(r"%(-?\d*[a-zA-Z%])|(.)", prefix, re.DOTALL):
        letter = escape[-1:]
        if letter == "q":
            expression, ends = expression + "(?:", ")?"
        elif letter in ("", "%"):
            expression += re.escape(other or "%")
        else:
            name, content = ESCAPES.get(letter, (None, NAME))
            group = f"(?P<{name}>{content})" if name and name not in seen else f"(?:{content})"
            seen.append(name)
            # With a width there are spaces on the one side or the other.
            expression += f" *{group} *" if len(escape) > 1 else group
    before = seen[: seen.index("sqlstate")] if "sqlstate" in seen else None
    return expression + ends, before is not None and not CHOSEN.intersection(before)


class Place:
    """Where the level may stand in a line: word, its end and its start, and what the prefix tells before it."""

    def __init__(self, word, found, told):
        self.word, self.start, self.end, self.told = word, found.start("label"), found.start("text"), told.groupdict()
        self.is_exact = told is not found
        # From here on the client has a say.
        self.base = min((told.start(name) for name in CHOSEN & self.told.keys() if self.told[name]), default=0)

    def rest(self, line):
        return line[self.base : self.start]


def places_in(line, label, exact, loose, known):
    """Where the level may stand: in more than one place if the prefix holds a name that looks like one."""
    # A prefix is short; what follows it may be a statement of megabytes.
    head = line[:1000]
    found = [(one, exact.fullmatch(head, 0, one.start())) for one in label.finditer(head)]
    if found and not any(told for _, told in found):
        # Written when log_line_prefix was another one.
        found = [(one, one) for one in [loose.match(head)] if one]
    return [Place(known[one["label"]], one, told) for one, told in found if told]


def stderr_entries(text, prefix, known, pause):
    """A client chooses the names in its prefix, and must neither hide an error by them nor make one.

    The SQLSTATE tells what is none, if it comes before them. Of several places the level is where the lines of one
    entry begin to differ, else the last one that is an error.
    """
    names = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    level = rf"(?<!\w)(?P<label>{names}):\s+(?P<text>)"
    label = re.compile(level)
    loose = re.compile(rf"(?P<time>{TIME} \S+)?.*?(?:\[(?P<process_id>\d+)\].*?)?{level}")
    expression, is_told_first = prefix_expression(prefix)
    exact = re.compile(expression, re.DOTALL)
    entries, entry, column, head = [], None, None, ("", [])
    for ended in lines(text, pause):
        line = ended.rstrip("\n")
        if line.startswith("\t"):
            if entry is not None and column and len(entry[column]) <= LONGEST:
                entry[column] += "\n" + line[1:]
            continue
        places = places_in(line, label, exact, loose, known)
        if is_told_first and any((place.told["sqlstate"] or "")[:2] in SUCCESS for place in places if place.is_exact):
            places = []
        part = part_of(line, places, column, *head) if entry is not None else None
        if part:
            reconsider(entry, *head, part.rest(line))
            column = PARTS[part.word]
            entry[column] = line[part.end :]
            continue
        errors = [place for place in places if place.word in ERRORS]
        entry, column = None, None
        if errors:
            entry, column, head = new_entry(line, errors[-1]), "message", (line, errors)
            entries.append(entry)
    return entries


def part_of(line, places, column, headline, errors):
    """The place of a level that says DETAIL or the like, of the entry before; None if the line is none of its parts.

    Each comes once, in their order, from the same process. column: of the last one.
    """
    order = ["message", *PARTS.values()]
    parts = [
        place
        for place in places
        if order.index(PARTS.get(place.word, "message")) > order.index(column)
        and place.told.get("process_id") == errors[0].told.get("process_id")
    ]
    if len(places) == len(parts) == 1:
        return parts[0]
    return next((part for part in parts if part.rest(line) in [error.rest(headline) for error in errors]), None)


def reconsider(entry, headline, errors, rest):
    """The level of an entry is where its parts have theirs."""
    for error in errors[:-1]:
        if error.rest(headline) == rest:
            further = entry["message"].partition("\n")
            entry.update(new_entry(headline, error))
            entry["message"] += further[1] + further[2]


def new_entry(line, place):
    entry = {name: value.strip() or None for name, value in place.told.items() if value is not None}
    entry = {name: value for name, value in entry.items() if name not in ("label", "text")}
    message = line[place.end :]
    # As log_error_verbosity = verbose writes it.
    state = re.match(r"([0-9A-Z]{5}): ", message)
    if state and not entry.get("sqlstate"):
        entry["sqlstate"], message = state[1], message[state.end() :]
    return {**entry, "severity": place.word, "message": message}
