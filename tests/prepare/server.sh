# To be sourced: what Debian's packages of PostgreSQL are like on this machine.

# newest_server: the folder of the newest installed server of Debian's.
newest_server() {
    ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -t / -k 5 -n | tail -n 1
}

# chosen_server: the folder of the server that tests run on: that of PG_CONFIG, else Debian's newest.
chosen_server() {
    bin=$("${PG_CONFIG:-pg_config}" --bindir 2> /dev/null || true)
    [ -x "$bin/initdb" ] || bin=$(newest_server)
    echo "$bin"
}

# debian_version FOLDER: the major version if that folder belongs to Debian's packages, else nothing.
debian_version() {
    case $1 in
        /usr/lib/postgresql/*/bin) basename "$(dirname "$1")" ;;
    esac
}

# installed_minor VERSION, newest_minor VERSION: of the package with the server, as apt knows them.
installed_minor() {
    LC_ALL=C apt-cache policy "postgresql-$1" 2> /dev/null | sed -n 's/^  Installed: \([0-9].*\)/\1/p'
}

newest_minor() {
    LC_ALL=C apt-cache policy "postgresql-$1" 2> /dev/null | sed -n 's/^  Candidate: \([0-9].*\)/\1/p'
}

is_outdated() {
    [ "$(installed_minor "$1")" != "$(newest_minor "$1")" ]
}

# is_in_use VERSION: whether a server of that version runs here. Another test run's is a copy that uses the libraries
# of the package; an upgrade would take them away from both.
is_in_use() {
    for program in /proc/[0-9]*/exe; do
        case $(readlink "$program" 2> /dev/null) in
            */postgresql/"$1"/bin/postgres*) return 0 ;;
        esac
    done
    return 1
}
