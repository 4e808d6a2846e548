#!/usr/bin/env bash
# Checks what 'make demo' and 'make test' stand on, and installs the Debian packages that are lacking.
# Instant when nothing is.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

[[ $(uname -s) == Linux ]] || die "this is $(uname -s)." \
    "Wanted: Linux (Debian 12): builds run in Linux containers. Use a Debian 12 machine or VM."
((EUID == 0)) || die "this runs as user $(id -un), not as root." \
    "Wanted: root: buildkitd makes mounts and namespaces. With sudo, keep the path to cargo and go: sudo env \"PATH=\$PATH\" make …"
command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    die "this is $(. /etc/os-release 2>/dev/null && echo "${PRETTY_NAME:-an unknown system}" || echo 'an unknown system') (no apt-get)." \
        "Wanted: Debian 12, whose packages are installed where they are lacking."

packages=(
    ca-certificates curl # fetching; curl is also a probe in tests
    gcc libc6-dev        # Rust's linker, C in build scripts, runc
    libseccomp-dev pkg-config # runc
    git                  # git contexts in tests
    openssh-client       # ssh-agent for ssh mounts in tests
    openssl              # tests compare our signatures and certificates with it
    libssl-dev           # s390_pv, which tests compare Secure Execution with
    busybox-static       # tiny images for tests
    mmdebstrap gpg gpgv debian-archive-keyring # base-image.sh
    jq                   # tests and scripts read JSON
)
require_packages "${packages[@]}"

rust=$(sed -n 's/^ *channel *= *"\(.*\)".*/\1/p' "$repo_root/rust-toolchain.toml")
command -v cargo >/dev/null || die "Rust is not installed (no 'cargo' in PATH)." \
    "Wanted: Rust $rust. Install it with https://rustup.rs, then: rustup toolchain install $rust"
# In the repository's root: there rustup goes by rust-toolchain.toml.
seen=$(cd "$repo_root" && cargo --version 2>&1) || true
[[ $seen == "cargo $rust "* ]] || die "Rust $rust is wanted (rust-toolchain.toml), and $(command -v cargo) says: ${seen%%$'\n'*}" \
    "Run: rustup toolchain install $rust --component rustfmt,clippy"

require_go
