#!/bin/sh
# Installs with apt-get what tests of Slurm and Grid Engine need, where something of it is missing. As root, on Debian or
# Ubuntu; install.sh does it for the hosts they run on. It must start no daemon, leave none enabled that came with this,
# make no cluster, and bring no mail server: the tests start daemons of their own, for a cluster of their own.
set -eu

missing=
for package in gridengine-client gridengine-exec gridengine-master munge slurm-client slurmctld slurmd; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
# The tests say, one by one, why they are skipped then.
[ "$(id -u)" = 0 ] || { echo "$0: only root can install$missing; what needs it is skipped" >&2; exit 0; }
wanted=$missing

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

case $missing in *gridengine*)
    # Else the package would make a cluster, of this machine, under /var/lib/gridengine.
    echo "gridengine-common shared/gridengineconfig boolean false" | debconf-set-selections
    # It wants a program that sends mail: this one is no server, and sends none unless it is told where to.
    [ -e /usr/sbin/sendmail ] || wanted="$wanted msmtp-mta"
    ;;
esac

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=600 "$@" </dev/null >"$log" 2>&1
}
# shellcheck disable=SC2086  # a list of words. The package lists may be absent or old: then they are fetched first.
apt install --no-install-recommends $wanted || { apt update && apt install --no-install-recommends $wanted; } || {
    cat "$log" >&2
    exit 1
}

if command -v systemctl >/dev/null; then
    for package in $missing; do
        systemctl --quiet disable "$package.service" >/dev/null 2>&1 || true  # those of clients do not exist
    done
fi
