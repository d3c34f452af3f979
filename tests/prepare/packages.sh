#!/bin/sh
# For root on Debian: a PostgreSQL server to test on, with plpgsql_check, PL/Python and its libraries, where they are
# missing; Redis, PgBouncer and sqlsmith, which some tests start for themselves; and a clock that can be set. Others test
# on the server that is there, else on the embedded one; make lint and the tests say what they had to leave out.
set -eu
. tests/prepare/apt.sh

can_apt || exit 0

# Nobody asked for running services: the packages are to start none.
install_stopped() {
    policy=/usr/sbin/policy-rc.d
    if [ -e $policy ]; then
        apt_install "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
    trap 'rm -f "$apt_log" "$policy"' EXIT
    result=0
    apt_install "$@" || result=$?
    rm -f $policy
    return $result
}

has_program() {
    [ -n "$(PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1")" ]
}

wanted=
has_program redis-server || wanted="$wanted redis-server"
has_program pgbouncer || wanted="$wanted pgbouncer"
has_program faketime || wanted="$wanted faketime"
if [ -n "$wanted" ]; then
    # Unquoted: it is a list.
    if install_stopped $wanted; then
        # Nor at the next start of the machine.
        systemctl --quiet disable $wanted > /dev/null 2>&1 || true
    else
        echo 'make: going on without the tests that need them'
    fi
fi

has_program sqlsmith || apt_install sqlsmith || echo 'make: going on without sqlsmith'

[ -z "${MACHSERIAL_TEST_BIN:-}" ] || exit 0

# Debian's newest installed version, unless PG_CONFIG leads to a server elsewhere.
chosen=$("$PG_CONFIG" --bindir 2> /dev/null || true)
case $chosen in
    /usr/lib/postgresql/*/bin) ;;
    *)
        [ ! -x "$chosen/initdb" ] || exit 0
        chosen=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -t / -k 5 -n | tail -n 1)
        ;;
esac

# install_missing VERSION: what the tests of that server can use, one by one: the lack of one is no lack of the others.
install_missing() {
    extensions=/usr/share/postgresql/$1/extension
    libraries=/usr/lib/python3/dist-packages
    [ -e "$extensions/plpgsql_check.control" ] || apt_install "postgresql-$1-plpgsql-check" ||
        echo 'make: going on without plpgsql_check'
    # It needs the server of its own version, to the digit: any other would upgrade the one that is there.
    server=$(dpkg-query -W -f '${Version}' "postgresql-$1" 2> /dev/null || true)
    [ -e "$extensions/plpython3u.control" ] || apt_install "postgresql-plpython3-$1=$server" ||
        echo 'make: going on without plpython3u'
    [ -e $libraries/stdnum ] || apt_install python3-stdnum || echo 'make: going on without python3-stdnum'
    [ -e $libraries/redis ] || apt_install python3-redis || echo 'make: going on without python3-redis'
}

if [ -x "$chosen/initdb" ]; then
    install_missing "$(basename "$(dirname "$chosen")")"
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
if apt_install "postgresql-$version"; then
    install_missing "$version"
else
    echo 'make: going on with the embedded server, without plpgsql_check and plpython3u'
fi
