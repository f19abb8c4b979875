#!/bin/sh
# Installs with apt-get what tests/browser needs, where it is missing: Chromium and a font. As root, on Debian or Ubuntu.
# Ubuntu's package of that name only leads to a snap: there the tests are skipped, and say so.
set -eu

missing=
for package in chromium fonts-dejavu-core; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
# The tests say why they are skipped then.
[ "$(id -u)" = 0 ] || { echo "$0: only root can install$missing; what needs it is skipped" >&2; exit 0; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 1' HUP INT TERM

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=600 "$@" </dev/null >"$log" 2>&1
}
# shellcheck disable=SC2086  # a list of words. The package lists may be absent or old: then they are fetched first.
apt install --no-install-recommends $missing || { apt update && apt install --no-install-recommends $missing; } || {
    cat "$log" >&2
    exit 1
}
