#!/bin/sh
# Installs with apt-get what tests/engines needs beside Python packages: Open MPI. As root, on Debian or Ubuntu.
set -eu

command -v mpirun >/dev/null && exit 0
# The tests say why they are skipped then.
[ "$(id -u)" = 0 ] || { echo "$0: only root can install openmpi-bin; what needs it is skipped" >&2; exit 0; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=600 "$@" </dev/null >"$log" 2>&1
}
# The package lists may be absent or old: then they are fetched first.
apt install --no-install-recommends openmpi-bin || { apt update && apt install --no-install-recommends openmpi-bin; } || {
    cat "$log" >&2
    exit 1
}
