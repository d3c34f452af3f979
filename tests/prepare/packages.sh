#!/bin/sh
# For root on Debian: a PostgreSQL server to test on, in its newest minor version, with plpgsql_check, PL/Python and its
# libraries, where they are missing; Redis, PgBouncer and sqlsmith, which some tests start for themselves; and a clock
# that can be set. Others test on the server that is there, else on the embedded one; make lint and the tests say what
# they had to leave out.
set -eu
. tests/prepare/apt.sh
. tests/prepare/server.sh

can_apt || {
    echo 'make: packages stay as they are: only root on Debian installs and upgrades them'
    exit 0
}

# without_starting COMMAND …: nobody asked for running services, so what the command installs starts none.
without_starting() {
    policy=/usr/sbin/policy-rc.d
    if [ -e $policy ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
    trap 'rm -f "$apt_log" "$policy"' EXIT
    result=0
    "$@" || result=$?
    rm -f $policy
    return $result
}

has_program() {
    [ -n "$(PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1")" ]
}

install_services() {
    wanted=
    has_program redis-server || wanted="$wanted redis-server"
    has_program pgbouncer || wanted="$wanted pgbouncer"
    has_program faketime || wanted="$wanted faketime"
    [ -n "$wanted" ] || return 0
    # Unquoted: it is a list.
    if without_starting apt_install $wanted; then
        # Nor at the next start of the machine.
        systemctl --quiet disable $wanted > /dev/null 2>&1 || true
    else
        echo 'make: going on without the tests that need them'
    fi
}

# upgrade VERSION: everything that belongs to a server, at once, because its parts need each other in the same version.
upgrade() {
    is_outdated "$1" || return 0
    echo "make: PostgreSQL $(installed_minor "$1") is installed, $(newest_minor "$1") is the newest"
    if is_in_use "$1"; then
        echo "make: a server of version $1 is running, so its packages stay as they are"
        return
    fi
    parts=$(dpkg-query -W -f '${source:Package} ${db:Status-Status} ${Package}\n' |
        sed -n "s/^postgresql-$1 installed //p")
    # Unquoted: it is a list.
    without_starting apt_get install --only-upgrade $parts || echo 'make: going on without the upgrade'
}

# install_missing VERSION: what the tests of that server can use, one by one: the lack of one is no lack of the others.
install_missing() {
    extensions=/usr/share/postgresql/$1/extension
    libraries=/usr/lib/python3/dist-packages
    [ -e "$extensions/plpgsql_check.control" ] || apt_install "postgresql-$1-plpgsql-check" ||
        echo 'make: going on without plpgsql_check'
    # It needs the server of its own version, to the digit: any other would upgrade the one that is there.
    [ -e "$extensions/plpython3u.control" ] || apt_install "postgresql-plpython3-$1=$(installed_minor "$1")" ||
        echo 'make: going on without plpython3u'
    [ -e $libraries/stdnum ] || apt_install python3-stdnum || echo 'make: going on without python3-stdnum'
    [ -e $libraries/redis ] || apt_install python3-redis || echo 'make: going on without python3-redis'
}

# install_server: Debian's own version, whose number is in the version of the package postgresql (15+248).
install_server() {
    version=$(apt-cache show postgresql 2> /dev/null | sed -n 's/^Version: \([0-9]*\).*/\1/p' | head -n 1)
    rule=/etc/postgresql-common/createcluster.d/machserial.conf
    mkdir -p "$(dirname $rule)"
    echo 'create_main_cluster = false' > $rule
    trap 'rm -f "$apt_log" "$rule"' EXIT
    result=0
    apt_install "postgresql-$version" || result=$?
    rm -f $rule
    return $result
}

refresh_lists
install_services
has_program sqlsmith || apt_install sqlsmith || echo 'make: going on without sqlsmith'

[ -z "${MACHSERIAL_TEST_BIN:-}" ] || exit 0

chosen=$(chosen_server)
if [ -z "$chosen" ]; then
    if install_server; then
        install_missing "$version"
    else
        echo 'make: going on with the embedded server, without plpgsql_check and plpython3u'
    fi
elif [ -n "$(debian_version "$chosen")" ]; then
    upgrade "$(debian_version "$chosen")"
    install_missing "$(debian_version "$chosen")"
fi
