#!/bin/sh
# Prints the server that make test uses, in the words of MACHSERIAL_TEST_BIN. Nothing: the installed one.
set -eu
. tests/prepare/server.sh

if [ -n "${MACHSERIAL_TEST_BIN:-}" ]; then
    echo "$MACHSERIAL_TEST_BIN"
    exit 0
fi
chosen=$(chosen_server)
if [ -z "$chosen" ]; then
    echo embedded
    exit 0
fi
version=$(debian_version "$chosen")
# An upgrade under running servers takes their libraries away, so packages.sh has left it out.
if [ "$(id -u)" -eq 0 ] && [ -n "$version" ] && is_outdated "$version" && is_in_use "$version"; then
    echo "make: PostgreSQL $(installed_minor "$version") is not the newest and in use: the embedded server alone is tested" >&2
    echo embedded
fi
