#!/usr/bin/env bash
# Builds the pinned engine (buildkitd, buildctl, runc) into OUTDIR, byte for byte the same everywhere.
#
#   build-engine.sh [OUTDIR]      default: target/tools/bin
#   build-engine.sh --record      build afresh and write engine.sha256 (after a version change)
#
# Versions: go.mod (buildkit, and the Go toolchain) and runc/go.mod. Two modules, because each of the
# two must get the dependencies its maintainers tested it with.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../scripts/lib.sh
. "$here/../scripts/lib.sh"

record=no
if [[ ${1-} == --record ]]; then
    record=yes
    shift
fi
out=${1:-$repo_root/target/tools/bin}
[[ $(uname -s) == Linux ]] || die "this is $(uname -s); the engine builds and runs on Linux only."
go_setup
# runc is linked statically against Debian's libseccomp. Without seccomp in runc every RUN step fails.
require_packages gcc libc6-dev libseccomp-dev pkg-config

mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.engine.lock"
flock 9

# runc's bytes depend on these too.
c_id=$(dpkg-query -W -f='${Package}=${Version}\n' binutils gcc-12 libc6-dev libgcc-12-dev libseccomp-dev 2>/dev/null |
    sort | tr '\n' ' ' | sed 's/ $//') || true
key=$(hash_inputs "$here"/go.{mod,sum} "$here"/runc/go.{mod,sum} "$here"/engine.sha256 \
    "$here/build-engine.sh" <<<"$go_inputs $c_id")
if [[ $record == no ]] && stamp_is "$out" engine "$key" && [[ -x $out/buildkitd && -x $out/buildctl && -x $out/runc ]]; then
    exit 0
fi
stamp_clear "$out" engine

work=$(mktemp -d "$out/.engine.XXXXXX")
trap 'rm -rf "$work"' EXIT
version=$(sed -n 's|.*github.com/moby/buildkit \(v[^ ]*\).*|\1|p' "$here/go.mod")
say "building buildkitd and buildctl $version with $go_id (about 2 minutes when nothing is cached)"
cd "$here"
# -buildid= : the build id is the one part of a Go binary that -trimpath does not make reproducible.
CGO_ENABLED=0 go_build "$out/.engine.log" -o "$work/" \
    -ldflags "-s -w -buildid= -X github.com/moby/buildkit/version.Version=$version" \
    github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl
say "building runc $(sed -n 's|.*github.com/opencontainers/runc \(v[^ ]*\).*|\1|p' runc/go.mod)"
cd "$here/runc"
CGO_ENABLED=1 go_build "$out/.engine.log" -o "$work/" -tags 'seccomp netgo osusergo' \
    -ldflags '-s -w -buildid= -linkmode external -extldflags "-static"' github.com/opencontainers/runc

cd "$work"
if [[ $record == yes ]]; then
    {
        echo "# What build-engine.sh makes; it compares when these are the same:"
        echo "# go: $go_id"
        echo "# c (runc only): $c_id"
        sha256sum buildctl buildkitd runc
    } >"$here/engine.sha256"
    say "wrote $here/engine.sha256"
fi

recorded_go=$(sed -n 's/^# go: //p' "$here/engine.sha256")
recorded_c=$(sed -n 's/^# c (runc only): //p' "$here/engine.sha256")
for name in buildctl buildkitd runc; do
    seen=$(sha256sum "$name" | cut -d' ' -f1)
    wanted=$(awk -v n="$name" '$2 == n { print $1 }' "$here/engine.sha256")
    if [[ $go_id != "$recorded_go" ]]; then
        say "note: $name is not compared with engine.sha256: built with $go_id, recorded with $recorded_go."
    elif [[ $name == runc && $c_id != "$recorded_c" ]]; then
        say "note: runc is not compared with engine.sha256: built with $c_id, recorded with $recorded_c."
    elif [[ $seen != "$wanted" ]]; then
        die "$name came out with other bytes than recorded, by the same toolchain." \
            "SHA-256 seen:   $seen" "SHA-256 wanted: $wanted (guest-image/engine.sha256)" \
            "Do not use it. If go.mod was changed on purpose, run guest-image/build-engine.sh --record and review the change."
    fi
done

# Renamed into place: a daemon that runs from the old file goes on undisturbed.
mv -f buildctl buildkitd runc "$out/"
rm -f "$out/.engine.log"
[[ $record == yes ]] || stamp_set "$out" engine "$key"
say "engine built: $out"
