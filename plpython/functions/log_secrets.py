MASK = "***"
SECRET = re.compile(
    r"passw(?:or)?[dt]\w*|passphrase|kennwort|(?<![a-z])pwd?(?![a-z])|secret\w*|credential\w*|api_?key"
    r"|(?:access|auth|bearer)[_ -]?token",
    re.IGNORECASE,
)
# Those of the languages that PostgreSQL speaks as well.
QUOTE = re.compile(r"['\"(`\u00ab\u00bb\u2018-\u201f\u2039\u203a\u300a-\u300f]|\$\w*\$")
URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):(\S*)@")
HASH = re.compile(r"\bmd5[0-9a-f]{32}\b|SCRAM-SHA-256\$\S*")
# What an authentication that failed says of passwords is never one.
AUTHENTICATION = ("28P01", "28000")


def without_secrets(entry):
    """The entry without what may be a password.

    A statement that speaks of passwords ends there, or where its first literal begins: that is more than is needed,
    and certain. So do the texts that belong to it, which quote it.
    """
    spoken = [entry.get(name) for name in ("statement", "query", "context")]
    is_secretive = any(text and SECRET.search(text) for text in spoken)
    is_login = entry.get("sqlstate") in AUTHENTICATION or entry["message"].startswith("password authentication failed")
    # With no statement there is nothing to tell what is quoted here.
    is_syntax_error = entry.get("sqlstate") == "42601" or " at or near " in entry["message"]
    is_quoting = is_syntax_error and not entry.get("statement")
    masked = dict(entry)
    for name in ("message", "detail", "hint", "context", "statement"):
        text = entry.get(name)
        if not text:
            continue
        if is_secretive:
            text = cut(text, SECRET, QUOTE)
        elif is_quoting and name == "message":
            text = cut(text, QUOTE)
        elif not is_login:
            text = cut(text, SECRET)
        masked[name] = HASH.sub(MASK, URL_PASSWORD.sub(rf"\1:{MASK}@", text))
    return masked


def cut(text, *expressions):
    """The text up to where the first of the expressions is found: after a word, before a quote."""
    found = [(match.end() if one is SECRET else match.start()) for one in expressions for match in one.finditer(text)]
    return f"{text[: min(found)].rstrip()} {MASK}" if found else text
