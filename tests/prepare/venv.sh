#!/bin/sh
# Makes .venv: the machserial command, editable, with what its demo and its tests need. Does nothing if it is current.
set -eu
. tests/prepare/apt.sh

# A venv does not survive a move of the checkout, nor the removal of its Python.
stamp=.venv/made-for
wanted=$({ pwd; cat python/pyproject.toml sql/machserial.control; } | cksum)
if [ "$(cat $stamp 2> /dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2> /dev/null; then
    exit 0
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "make: $PYTHON is not Python 3.10 or newer. Name one: make PYTHON=…" >&2
    exit 1
}

has_ensurepip() { "$PYTHON" -c 'import ensurepip, venv' 2> /dev/null; }

if ! has_ensurepip && can_apt; then
    apt_install python3-venv
fi
echo 'make: making .venv'
rm -rf .venv
if has_ensurepip; then
    "$PYTHON" -m venv .venv
elif "$PYTHON" -m pip --version > /dev/null 2>&1; then
    # A pip without ensurepip can still fill a venv from outside.
    "$PYTHON" -m venv --without-pip .venv
    "$PYTHON" -m pip --python .venv/bin/python --quiet install pip
else
    echo "make: $PYTHON can make no virtual environment. On Debian, as root: apt-get install python3-venv" >&2
    exit 1
fi
.venv/bin/python -m pip --quiet --disable-pip-version-check install --editable 'python[demo,test]'
echo "$wanted" > $stamp
