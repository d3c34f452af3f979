# To be sourced: apt_install PACKAGE … for root on Debian and its kin.

can_apt() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null
}

# --no-upgrade and no recommendations: what runs on this machine stays as it is.
apt_install() {
    echo "make: installing $*"
    for attempt in 1 2; do
        if DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-upgrade --no-install-recommends "$@" \
            > "$apt_log" 2>&1 < /dev/null; then
            return 0
        fi
        # A fresh machine has no package lists, an old one has stale ones.
        [ $attempt -eq 2 ] || apt-get update -q > "$apt_log" 2>&1 || true
    done
    tail -n 5 "$apt_log" >&2
    return 1
}

apt_log=$(mktemp)
trap 'rm -f "$apt_log"' EXIT
