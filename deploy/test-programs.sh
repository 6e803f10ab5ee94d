#!/bin/sh
# test-programs.sh PROGRAMS PACKAGES: where we may (Debian, root), install the packages if a program is missing.
set -eu
PATH="$PATH:/usr/sbin:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)"
missing=
for program in $1; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
wanted=
for package in $2; do  # some hold no program, such as modules of another; some programs came another way, as npm may
    command -v "$package" >/dev/null 2>&1 && continue
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" && continue
    wanted="$wanted $package"
    ! command -v dpkg-query >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Not installed, so their tests will be skipped:$missing"
    exit 0
fi
echo "Installing programs that the tests use:$missing ..."
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 (a list of names)
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted >/dev/null; }; then
    echo "They could not be installed, so their tests will be skipped:$missing"
fi
