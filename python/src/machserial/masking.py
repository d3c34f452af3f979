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
# "password": "…" of JSON and of dictionaries.
ENTRY_PASSWORD = re.compile(r"""(password(["'])\s*:\s*)(["'])(?:[^\\]|\\.)*?\3""", re.IGNORECASE)
# After = or :, in quotes that no : follows, or before the @ of a URL.
AS_A_VALUE = r"(?<=[=:]){0}(?!\w)|(?<=['\"`]){0}(?=['\"`])(?!.\s*:)|(?<!\w){0}(?=@)"

_known: set[str] = set()


def remember(password: str | None) -> None:
    """From now on password is masked where it occurs; see masked()."""
    if password:
        _known.add(password)


def masked(text: str) -> str:
    """text without passwords: whatever stands where one does, those that are remembered, and PGPASSWORD.

    A password that is a mere word or number is masked only where it stands as a value: in "wrong password" neither
    word is a secret, and a mask in its place would tell what the password is.
    """
    for password in (*_known, os.environ.get("PGPASSWORD", "")):
        # A shorter one would blot out parts of ordinary words.
        if len(password) > 3:
            is_word = password.isalpha() or password.isdecimal()
            text = re.sub(AS_A_VALUE.format(password), MASK, text) if is_word else text.replace(password, MASK)
    text = URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = FIELD_PASSWORD.sub(rf"\1{MASK}", text)
    return ENTRY_PASSWORD.sub(rf"\1\3{MASK}\3", text)


def visible(text: str) -> str:
    """text without what a terminal obeys or hides: such characters as escapes, which are also those of JSON."""
    if text.isprintable():
        return text
    return "".join(one if one == "\n" or not _is_hidden(one) else json.dumps(one)[1:-1] for one in text)


def _is_hidden(one: str) -> bool:
    return unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")
