#!/usr/bin/env bash
# Runs the fuzz targets of tests/fuzz: `scripts/fuzz.sh [SECONDS [TARGET...]]`, each for SECONDS (60), all unless some are
# named. Seeds are made anew, what libFuzzer adds to them stays below target/fuzz/corpus. One line per target; the exit
# code is not 0 when one of them crashed, hung or took too much memory.
#
# The pinned stable compiler does: sanitizer coverage is an LLVM pass, and safe Rust gives an address sanitizer little to
# find. Dependencies are instrumented too, build scripts are not (because of --target).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"
cd "$repo_root"
require_packages g++ libc6-dev

seconds=${1:-60}
shift || true
host=$(rustc -vV | sed -n 's/^host: //p')
home=$PWD/target/fuzz
fuzz=$home/build/$host/release/fuzz
export SEALWRIGHT_FUZZ_GOOD=$home/good

if [[ ! $seconds =~ ^[1-9][0-9]*$ ]]; then
    die "SECONDS is '$seconds'." "Wanted: a number of at least 1."
fi

rm -rf "$home/seeds" "$home/good"
cargo run --locked --quiet --release -p sealwright-tests --bin fuzz-seeds -- "$home"
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=4 \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
    CARGO_TARGET_DIR=$home/build cargo build --quiet --release --locked --target "$host" \
    --manifest-path tests/fuzz/Cargo.toml --bin fuzz

# libFuzzer warns about sanitizers that are not linked.
run() {
    SEALWRIGHT_FUZZ_TARGET=$1 "$fuzz" "${@:2}" 2> >(grep -v '^WARNING: Failed to find function' >&2)
}

run "seeds=$home/seeds"
mapfile -t known < <(run list)
targets=("$@")
if [[ ${#targets[@]} == 0 ]]; then
    targets=("${known[@]}")
fi

failed=0
for target in "${targets[@]}"; do
    if [[ " ${known[*]} " != *" $target "* ]]; then
        die "no fuzz target is called '$target'." "Wanted: one of ${known[*]}."
    fi
    mkdir -p "$home/corpus/$target" "$home/crashes/$target"
    log=$home/$target.log
    # Inputs above 64 KiB are only slower: the limits of the parsers have tests of their own.
    code=0
    SEALWRIGHT_FUZZ_TARGET=$target "$fuzz" "$home/corpus/$target" "$home/seeds/$target" \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="$home/crashes/$target/" >"$log" 2>&1 || code=$?
    stat() { sed -n "s/^stat::$1: *//p" "$log"; }
    coverage() { sed -n 's/^#[0-9]*[[:space:]]*'"$1"' .*cov: \([0-9]*\) .*/\1/p' "$log" | tail -1; }
    executions=$(stat number_of_executed_units)
    before=$(coverage INITED)
    after=$(coverage '[A-Za-z]*')
    printf '%-24s %11s executions in %s s, coverage %s -> %s, %s new inputs\n' \
        "$target" "${executions:-?}" "$seconds" "${before:-?}" "${after:-?}" "$(stat new_units_added)"
    if [[ $code != 0 ]]; then
        failed=1
        input=$(sed -n 's/^.*Test unit written to //p' "$log" | tail -1)
        grep -m3 -A1 -E 'panicked at|ERROR: libFuzzer' "$log" | cut -c1-300 >&2 || true
        echo "$target: FAILED; the input is ${input:-not written}, the log $log" >&2
        echo "  again: SEALWRIGHT_FUZZ_GOOD=$home/good SEALWRIGHT_FUZZ_TARGET=$target $fuzz $input" >&2
    fi
done
exit "$failed"
