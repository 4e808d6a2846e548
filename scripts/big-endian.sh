#!/usr/bin/env bash
# Compiles what runs in a Secure Execution guest, and what judges its Evidence, for s390x, which is big-endian, and runs the
# tests of these parts under qemu's user emulation.
#
#   big-endian.sh [--check]      --check only compiles
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

target=s390x-unknown-linux-gnu
require_packages gcc-s390x-linux-gnu libc6-dev-s390x-cross qemu-user-static
cd "$repo_root"
if ! rustup target list --installed 2>/dev/null | grep -qx "$target"; then
    refused=$(rustup target add "$target" 2>&1) || die "the Rust target $target could not be downloaded." \
        "rustup says: ${refused##*$'\n'}" "Run: rustup target add $target"
fi

export CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER=s390x-linux-gnu-gcc \
    CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_RUNNER='qemu-s390x-static -L /usr/s390x-linux-gnu' \
    CC_s390x_unknown_linux_gnu=s390x-linux-gnu-gcc AR_s390x_unknown_linux_gnu=s390x-linux-gnu-ar

if [[ ${1:-} == --check ]]; then
    exec cargo check --locked --target "$target" -p sealwright-provenance -p sealwright-enclave-keys
fi
run() { cargo test --locked --target "$target" "$@"; }
run -p sealwright-provenance
# The device code; the rest of the crate is compiled with it.
run -p sealwright-enclave-keys --lib devices
run -p sealwright-verifier --lib secure_execution
run -p sealwright-verifier --test se_vectors --test se_own_request --test se_host_key
