#!/bin/sh
# For root on Debian: a PostgreSQL server to test on, and plpgsql_check for it, where they are missing. Everybody else
# tests on the server that is there, else on the embedded one; make lint says what it had to leave out.
set -eu
. tests/prepare/apt.sh

can_apt && [ -z "${MACHSERIAL_TEST_BIN:-}" ] || exit 0

# Debian's newest installed version, unless PG_CONFIG leads to a server elsewhere.
chosen=$("$PG_CONFIG" --bindir 2> /dev/null || true)
case $chosen in
    /usr/lib/postgresql/*/bin) ;;
    *)
        [ ! -x "$chosen/initdb" ] || exit 0
        chosen=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -t / -k 5 -n | tail -n 1)
        ;;
esac

if [ -x "$chosen/initdb" ]; then
    version=$(basename "$(dirname "$chosen")")
    [ ! -e "/usr/share/postgresql/$version/extension/plpgsql_check.control" ] || exit 0
    apt_install "postgresql-$version-plpgsql-check" || echo 'make: going on without plpgsql_check'
    exit 0
fi

# None at all: Debian's own version, whose number is in the version of the package postgresql (15+248).
apt-cache show postgresql > /dev/null 2>&1 || apt-get update -q > "$apt_log" 2>&1 || true
version=$(apt-cache show postgresql 2> /dev/null | sed -n 's/^Version: \([0-9]*\).*/\1/p' | head -n 1)
# Nobody asked for a running server: the packages are to start none.
rule=/etc/postgresql-common/createcluster.d/machserial.conf
mkdir -p "$(dirname $rule)"
echo 'create_main_cluster = false' > $rule
trap 'rm -f "$apt_log" "$rule"' EXIT
apt_install "postgresql-$version" "postgresql-$version-plpgsql-check" ||
    echo 'make: going on with the embedded server, without plpgsql_check'
