# shellcheck shell=bash
# Helpers shared by the scripts that fetch and build what Sealwright needs.
# Sourced, never run.

repo_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Everything said goes to stderr: stdout belongs to the caller (make serve prints JSON there).
say() { printf '%s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '       %s\n' "$@" >&2
    exit 1
}

# The oldest Go that can start us. The engine's go.mod may ask for a later one: see go_setup.
go_floor=1.26.3

version_at_least() { # SEEN WANTED
    [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1) == "$2" ]]
}

local_go_version() {
    # GOTOOLCHAIN=local: what is installed, not what a go.mod would have fetched. cd /: no go.mod.
    (cd / && GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) | sed 's/^go//'
}

require_go() {
    command -v go >/dev/null || die "Go is not installed (no 'go' in PATH)." \
        "Wanted: Go $go_floor or later. Unpack an archive from https://go.dev/dl/ to /usr/local and" \
        "add /usr/local/go/bin to PATH."
    local seen
    seen=$(local_go_version) || true
    [[ -n $seen ]] || die "'go env GOVERSION' failed: $(command -v go) is not a working Go." \
        "Wanted: Go $go_floor or later, from https://go.dev/dl/."
    version_at_least "$seen" "$go_floor" || die "Go $seen is too old ($(command -v go))." \
        "Wanted: Go $go_floor or later, from https://go.dev/dl/."
}

# Fixes everything in the environment that could change a binary, and picks the toolchain named by
# the 'go' line of guest-image/go.mod, so that one version builds the engine everywhere. Go fetches
# another toolchain like a module, checked against the checksum database.
go_setup() {
    require_go
    local seen pinned
    seen=$(local_go_version)
    pinned=$(sed -n 's/^go //p' "$repo_root/guest-image/go.mod")
    if [[ $seen == "$pinned" ]]; then
        export GOTOOLCHAIN=local
    elif (cd / && GOTOOLCHAIN=go$pinned go version) >/dev/null 2>&1; then
        export GOTOOLCHAIN=go$pinned
    elif version_at_least "$seen" "$pinned"; then
        say "note: Go $pinned could not be fetched; building with the installed Go $seen."
        export GOTOOLCHAIN=local
    else
        die "Go $seen is installed, the engine needs Go $pinned, and fetching that toolchain failed." \
            "Install Go $pinned from https://go.dev/dl/, or make the Go module proxy reachable" \
            "(GOPROXY is '$(go env GOPROXY)')."
    fi
    export GOFLAGS='-buildvcs=false -mod=readonly -trimpath' GOWORK=off GOOS=linux GOEXPERIMENT='' \
        GOAMD64=v1 GOARM64=v8.0 GOFIPS140=off
    unset GOARCH CGO_CFLAGS CGO_CPPFLAGS CGO_CXXFLAGS CGO_FFLAGS CGO_LDFLAGS CC
    go_id=$(cd / && go version | cut -d' ' -f3,4) # "go1.26.8 linux/amd64"
    go_inputs="$go_id $GOFLAGS $GOAMD64 $GOARM64" # for stamps
}

# The user of the service: build-server/src/config/units.rs, ServiceUid.
service_uid=65533

# Where a development server keeps its state: target/NAME, or, in a checkout that is closed to other users, as below
# /root, a directory beside it that the service, which is not root, can reach.
state_place() { # NAME
    mkdir -p "$repo_root/target"
    if setpriv --reuid $service_uid --regid $service_uid --clear-groups -- test -x "$repo_root/target" 2>/dev/null; then
        printf '%s\n' "$repo_root/target/$1"
    else
        local place
        place=/var/tmp/sealwright-$(printf '%s' "$repo_root" | sha256sum | cut -c1-16)-$1
        say "note: $repo_root is closed to the user of the service ($service_uid), so its state is in $place"
        printf '%s\n' "$place"
    fi
}

missing_packages() { # PACKAGE...: prints those not installed
    local name
    for name in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || printf '%s\n' "$name"
    done
}

# Installs the Debian packages that are lacking. One dpkg call and nothing else when none is.
require_packages() { # PACKAGE...
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
        die "this is not a Debian system (no apt-get)." "Wanted: Debian 12 with these packages: $*"
    local missing
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]} > 0)) || return 0
    ((EUID == 0)) || die "Debian packages are missing, and installing them needs root: ${missing[*]}" \
        "Run: sudo apt-get install ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    mkdir -p "$repo_root/target"
    (
        # Two of our scripts may get here at once, and apt-get update has no lock to wait for.
        flock 8
        log=$repo_root/target/apt.log
        export DEBIAN_FRONTEND=noninteractive
        install=(apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}")
        # Try first with the package lists at hand: a refresh costs time and may not be needed.
        "${install[@]}" >"$log" 2>&1 ||
            { apt-get -q update >>"$log" 2>&1 && "${install[@]}" >>"$log" 2>&1; } ||
            die "apt-get could not install: ${missing[*]}" "$(grep -m1 '^E:' "$log" || tail -n1 "$log")" \
                "Full output: $log"
    ) 8>"$repo_root/target/.apt.lock"
}

# The stamp of NAME in DIR holds the key (a hash of all inputs) of what was last built there.
hash_inputs() { # FILE... ; further inputs on stdin
    { cat; cat -- "$@"; } | sha256sum | cut -d' ' -f1
}
stamp_is() { [[ -f $1/.stamps/$2 && $(<"$1/.stamps/$2") == "$3" ]]; } # DIR NAME KEY
stamp_set() { # DIR NAME KEY
    mkdir -p "$1/.stamps"
    printf '%s\n' "$3" >"$1/.stamps/$2"
}
stamp_clear() { rm -f "$1/.stamps/$2"; } # DIR NAME

# A failed 'go build' prints what it did to a log and its last lines here, with what to do.
go_build() { # LOG ARGS...
    local log=$1
    shift
    nice go build "$@" >"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        die "go build failed in $PWD (full output: $log)." \
            "If it could not download a module: check that the Go module proxy is reachable (GOPROXY is '$(go env GOPROXY)')."
    }
}
