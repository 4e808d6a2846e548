#!/usr/bin/env bash
# Mutation tests of the crates that decide: `scripts/mutants.sh [PACKAGE...]`, all three unless some are named. Verdicts
# are kept below target/mutants, so that a run that was interrupted goes on; `rm target/mutants/verdicts.txt` begins anew.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"
cd "$repo_root"

version=27.1.0
packages=("$@")
if [[ ${#packages[@]} == 0 ]]; then
    packages=(sealwright-provenance sealwright-verifier sealwright-enclave-keys)
fi
if [[ $(cargo mutants --version 2>/dev/null) != "cargo-mutants $version" ]]; then
    cargo install --locked --quiet --version "$version" --root target/mutants/cargo cargo-mutants
    export PATH=$PWD/target/mutants/cargo/bin:$PATH
fi
CARGO_TARGET_DIR=target/mutants/tool cargo build --release --locked --quiet --manifest-path tests/mutants/Cargo.toml
exec target/mutants/tool/release/sealwright-mutants "${packages[@]}"
