"""Keeps passwords out of everything that is written."""

from __future__ import annotations

import json
import os
import re
import unicodedata

MASK = "***"

# user:password@ of a URL (up to the last @, as a password may hold one); password=… of a connection string.
URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):(\S*)@")
FIELD_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]*)", re.IGNORECASE)

_known: set[str] = set()


def remember(password: str | None) -> None:
    """From now on password is masked wherever it occurs."""
    if password:
        _known.add(password)


def masked(text: str) -> str:
    """text without passwords: those that are remembered, PGPASSWORD, and whatever looks like one."""
    text = URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = FIELD_PASSWORD.sub(rf"\1{MASK}", text)
    for password in (*_known, os.environ.get("PGPASSWORD", "")):
        # A very short one would blot out parts of ordinary words, and the two patterns have caught it.
        if len(password) > 3:
            text = text.replace(password, MASK)
    return text


def visible(text: str) -> str:
    """text without what a terminal obeys or hides: such characters as escapes, which are also those of JSON."""
    if text.isprintable():
        return text
    return "".join(one if one == "\n" or not _is_hidden(one) else json.dumps(one)[1:-1] for one in text)


def _is_hidden(one: str) -> bool:
    return unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")
