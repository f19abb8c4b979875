#!/bin/sh
# Installs with apt-get what tests/clusters needs, where something of it is missing. As root, on Debian or Ubuntu.
# It must start no service, and the system's sshd is not left enabled if it comes with this: the tests start their own.
set -eu

missing=
for package in hostname iproute2 mount nftables openssh-client openssh-server util-linux; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
# The tests say, one by one, why they are skipped then.
[ "$(id -u)" = 0 ] || { echo "$0: only root can install$missing; what needs it is skipped" >&2; exit 0; }

# Package scripts ask this program whether they may start a service; 101 means no. An administrator's own comes back.
policy=/usr/sbin/policy-rc.d
kept=$policy.kept-by-crew-tests
log=$(mktemp)
tidy() {
    rm -f "$policy" "$log"
    [ ! -e "$kept" ] || mv "$kept" "$policy"
}
trap tidy EXIT
trap 'exit 1' HUP INT TERM
[ -e "$kept" ] || [ ! -e "$policy" ] || mv "$policy" "$kept"
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=600 "$@" </dev/null >"$log" 2>&1
}
# shellcheck disable=SC2086  # a list of words. The package lists may be absent or old: then they are fetched first.
apt install --no-install-recommends $missing || { apt update && apt install --no-install-recommends $missing; } || {
    cat "$log" >&2
    exit 1
}

case $missing in *openssh-server*)
    if command -v systemctl >/dev/null; then
        systemctl --quiet disable ssh.service ssh.socket >/dev/null 2>&1 || true  # one of them may not exist
    fi
    ;;
esac
