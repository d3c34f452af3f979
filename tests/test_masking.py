"""Secrets are masked where they stand as values. Words of a message that happen to be a secret stay: a mask in
their place would tell what the secret is.
"""

import json

import pytest
from machserial import masking
from machserial.errors import Exit, ExpectedError

ONE_MODE = True


@pytest.fixture
def secret(monkeypatch):
    """secret(text): from then on text is known to be one."""
    known: set[str] = set()
    monkeypatch.setattr(masking, "_known", known)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    return known.add


@pytest.mark.parametrize("word", ["wrong", "password", "trust", "2026"])
def test_a_word_stays_where_it_is_a_word(secret, word):
    message = "wrong password: give a password that is not wrong; of 2026, see trust in pg_hba.conf"
    secret(word)
    assert masking.masked(message) == message


@pytest.mark.parametrize("word", ["wrong", "password", "Tr0ub4dor&3", "2026"])
@pytest.mark.parametrize(
    "text",
    [
        "host=h password={} port=1",
        "host=h password='{}' port=1",
        "host=h sslpassword = {} port=1",
        "PGPASSWORD={} psql",
        "postgresql://me:{}@h/d",
        "postgresql://:{}@h/d",
        "redis://:{}@h/0",
        "postgresql://h/d?user=me&password={}&sslpassword={}",
        '{{"password": "{}", "port": 1}}',
        "{{'sslpassword': '{}'}}",
        "invalid passphrase={}",
        'unknown option "{}"',
        "me:{}@h",
    ],
)
def test_a_value_is_masked(secret, text, word):
    secret(word)
    shown = masking.masked(text.format(word, word))
    assert "***" in shown
    # What is beside it stays.
    assert shown.replace("'***' port", "*** port") == text.format("***", "***").replace("'***' port", "*** port")


def test_a_value_is_masked_without_being_known(secret):
    assert masking.masked("postgresql://me:hush@h?sslpassword=hush") == "postgresql://me:***@h?sslpassword=***"
    assert masking.masked("hush") == "hush"


def test_a_secret_that_is_no_word_is_masked_everywhere(secret):
    secret("Tr0ub4dor&3{}")
    assert masking.masked("it was Tr0ub4dor&3{}, twice: xTr0ub4dor&3{}x") == "it was ***, twice: x***x"


@pytest.mark.parametrize("word", ["wrong", "error", "password"])
def test_json_stays_json(secret, capsys, word):
    """A mask that goes by quotes or by the end of a value eats none of the document's own."""
    secret(word)
    error = ExpectedError("wrong password", detail=f"tried password={word}", code=Exit.CONNECTION)
    error.shown_as_json = True
    error.show()
    assert json.loads(capsys.readouterr().err) == {
        "error": {"message": "wrong password", "detail": "tried password=***", "exit_code": int(Exit.CONNECTION)}
    }
