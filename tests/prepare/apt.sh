# To be sourced: refresh_lists and apt_install PACKAGE … for root on Debian and its kin.

can_apt() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null
}

# refresh_lists: what there is to be had, unless apt has asked within the last hour. Offline, what it knows has to do.
refresh_lists() {
    lists=/var/lib/apt/lists
    asked=$(find $lists/partial -maxdepth 0 -mmin -60 2> /dev/null || true)
    [ -z "$asked" ] || ! ls $lists/*Packages* > /dev/null 2>&1 || return 0
    apt-get update -q -o Acquire::Retries=0 > "$apt_log" 2>&1 < /dev/null ||
        echo 'make: apt-get update failed; going on with what apt knows already'
}

# apt_get ARGUMENT …: what it says is shown only if it fails.
apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends "$@" > "$apt_log" 2>&1 < /dev/null || {
        tail -n 5 "$apt_log" >&2
        return 1
    }
}

# apt_install PACKAGE …: what is there already stays in its version.
apt_install() {
    echo "make: installing $*"
    refresh_lists
    apt_get install --no-upgrade "$@"
}

apt_log=$(mktemp)
trap 'rm -f "$apt_log"' EXIT
