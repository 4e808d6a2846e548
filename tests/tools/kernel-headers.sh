#!/usr/bin/env bash
# Fetches the one kernel header that tests compare our s390 layouts with and that no package of Debian 12 installs:
# asm/uvdevice.h of linux-libc-dev in trixie-backports, the first with the call that retrieves a secret. The package is
# unpacked, not installed.
#
#   kernel-headers.sh [OUTDIR]      default: target/tools/bin; makes OUTDIR/s390x-uapi/asm/uvdevice.h
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../scripts/lib.sh
. "$here/../../scripts/lib.sh"

package=linux-libc-dev_7.3.4-1~bpo13+1_all.deb
package_sha256=b3a4538fca67081c8606a93f37521d0eb74ac75996a02f3321a6b27f978e10a8
# The mirror drops a version some time after the next one; the archive of all versions keeps it.
sources=(
    "http://deb.debian.org/debian/pool/main/l/linux/$package"
    "http://snapshot.debian.org/archive/debian/20261120T000000Z/pool/main/l/linux/$package"
)
member=./usr/lib/linux/uapi/s390/asm/uvdevice.h

out=${1:-$repo_root/target/tools/bin}
mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.headers.lock"
flock 9
key=$(hash_inputs "$here/kernel-headers.sh" </dev/null)
if stamp_is "$out" s390x-uapi "$key" && [[ -f $out/s390x-uapi/asm/uvdevice.h ]]; then exit 0; fi
stamp_clear "$out" s390x-uapi

work=$(mktemp -d "$out/.headers.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "fetching the kernel header asm/uvdevice.h of s390 ($package)"
for source in "${sources[@]}"; do
    curl -sSfL --retry 2 --connect-timeout 20 --max-time 300 -o "$work/package" "$source" 2>>"$work/log" || continue
    [[ $(sha256sum "$work/package" | cut -d' ' -f1) == "$package_sha256" ]] && break
    echo "$source: another SHA-256 than $package_sha256" >>"$work/log"
    rm -f "$work/package"
done
[[ -f $work/package ]] || die "could not fetch $package." "$(cat "$work/log")" \
    "Is http://deb.debian.org reachable? If Debian has dropped this version, pin a newer one in tests/tools/kernel-headers.sh."
mkdir -p "$work/asm"
dpkg-deb --fsys-tarfile "$work/package" | tar -xO "$member" >"$work/asm/uvdevice.h"
[[ -s $work/asm/uvdevice.h ]] || die "$package holds no $member."
rm -rf "$out/s390x-uapi"
mkdir "$out/s390x-uapi"
mv "$work/asm" "$out/s390x-uapi/asm"
stamp_set "$out" s390x-uapi "$key"
