#!/bin/sh
# Stops with a sentence, not a stack trace, where somebody else (root, mostly) has used this checkout before.
set -eu

[ -w . ] || {
    echo "make: $(id -un) may not write to $PWD. Work in a clone of your own." >&2
    exit 1
}
made=
for folder in build .venv .cache .hypothesis tests python/src; do
    [ ! -e $folder ] || made="$made $folder"
done
[ -n "$made" ] || exit 0
# Links are left out: one that leads nowhere counts as not writable.
# shellcheck disable=SC2086
foreign=$(find $made -maxdepth 4 ! -type l ! -writable -print -quit)
[ -z "$foreign" ] || {
    owner=$(stat -c %U "$foreign")
    echo "make: $foreign belongs to $owner, so $(id -un) cannot build here." >&2
    echo "      Run 'make clean' as $owner first, or work in a clone of your own." >&2
    exit 1
}
