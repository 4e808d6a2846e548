#!/usr/bin/env bash
# Builds the other people's tools that the tests use. Each is pinned by the go.mod and go.sum in its folder.
#
#   build-tools.sh [OUTDIR [NAME…]]      default: target/tools/bin, all of them
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../scripts/lib.sh
. "$here/../../scripts/lib.sh"

# The folder's name is the binary's: cosign is version 3, cosign2 version 2.6. Quick ones first.
all=(crane registry grpcurl cosign cosign2)

out=${1:-$repo_root/target/tools/bin}
(($# == 0)) || shift
names=("$@")
(($# > 0)) || names=("${all[@]}")
for name in "${names[@]}"; do
    [[ -f $here/$name/go.mod ]] || die "no tool is called '$name'." "There are: ${all[*]}"
done
go_setup

mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.tools.lock"
flock 9

for name in "${names[@]}"; do
    key=$(hash_inputs "$here/$name"/go.{mod,sum} "$here/build-tools.sh" <<<"$go_inputs")
    if stamp_is "$out" "$name" "$key" && [[ -x $out/$name ]]; then continue; fi
    stamp_clear "$out" "$name"
    # The 'tool' line names the package to build, so go.mod is the only place that does.
    package=$(sed -n 's/^tool //p' "$here/$name/go.mod")
    say "building $name ($package)"
    cd "$here/$name"
    CGO_ENABLED=0 go_build "$out/.$name.log" -ldflags '-s -w -buildid=' -o "$out/.$name.new" "$package"
    mv -f "$out/.$name.new" "$out/$name"
    rm -f "$out/.$name.log"
    stamp_set "$out" "$name" "$key"
done
