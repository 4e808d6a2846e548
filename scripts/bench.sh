#!/usr/bin/env bash
# `make bench`: the figures of docs/benchmarks.md, on stdout and in target/benchmarks.md. Arguments choose rows.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

free=$(df --output=avail -B1M /tmp | tail -n1)
((free >= 16384)) || die "/tmp has $free MiB free." "Wanted: 16 GiB. The contexts and results of 1 GiB are made there."
say "This takes up to ten minutes. Other work on this machine makes the figures worthless."
"$repo_root/target/release/bench" "$@" | tee "$repo_root/target/benchmarks.md"
