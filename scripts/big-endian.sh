#!/usr/bin/env bash
# What runs in a Secure Execution guest, and what judges its Evidence, on the big-endian s390x: the tests of the formats,
# of the key process and of the verifier under qemu's user emulation. The service itself is only compiled.
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

# Optimised, because emulation multiplies the time.
run() { cargo test --release --locked --no-fail-fast --target "$target" "$@"; }
run -p sealwright-provenance --lib
# qemu answers ENOSYS to an ioctl that it does not know, before any driver could.
run -p sealwright-enclave-keys --lib -- --skip devices::tests::the_kernels_errno_comes_back
# RSA of IBM's chain and many thousand altered answers take minutes here, and know no byte order.
run -p sealwright-verifier --lib --test se_vectors --test se_policy --test se_joined --test se_own_request -- \
    --skip cut_and_overwritten_bytes_are_refused_without_a_panic
cargo check --release --locked --target "$target" -p sealwright-build-server --bins
