#!/usr/bin/env bash
# `make demo`: one real build, verified offline, then one byte altered. Exit 0 only if the build and its
# verification succeed AND the altered copy is rejected as not authentic. TEE names the platform that the software TEE
# stands for: snp (the default), tdx or se. On Secure Execution (se) Evidence convinces only whoever made the attestation
# request, so the image is verified with the request and the key that the build kept.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

release=$repo_root/target/release
base_image=${SEALWRIGHT_BASE_IMAGE:?}
tee=${TEE:-snp}
work=$repo_root/target/demo
sealwright=$release/sealwright

# Two demos at once would share one state directory.
mkdir -p "$repo_root/target"
exec 9>"$repo_root/target/.demo.lock"
flock -n 9 || die "another 'make demo' is running." "Wait for it, or stop it."

state=$(state_place demo-state)
rm -rf "$work" "$state"
mkdir -p "$work"

server_pid=
stop_server() {
    [[ -n $server_pid ]] || return 0
    kill -TERM "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}
trap stop_server EXIT
trap 'exit 130' INT TERM

step() { printf '\n== %s\n' "$*" >&2; }

step "starting the development build server (software TEE for $tee: NOT HARDWARE)"
mkfifo "$work/ready"
"$release/dev-server" --state "$state" --listen 127.0.0.1:0 --tools "$SEALWRIGHT_TOOLS" --tee "$tee" \
    >"$work/ready" 2>"$work/server.log" &
server_pid=$!
if ! IFS= read -r -t 60 ready <"$work/ready"; then
    tail -n 20 "$work/server.log" >&2
    die "the development server did not become ready." "Its log is $work/server.log"
fi
cat "$work/server.log" >&2
field() { jq -er ".$1" <<<"$ready"; }
SEALWRIGHT_ENDPOINT=$(field endpoint)
SEALWRIGHT_KEY=$(field key_file)
SEALWRIGHT_POLICY=$(field policy_file)
export SEALWRIGHT_ENDPOINT SEALWRIGHT_KEY SEALWRIGHT_POLICY
own_request=()
if [[ $tee == se ]]; then
    SEALWRIGHT_HOST_KEY_DOCUMENTS=$work/host-key-documents
    export SEALWRIGHT_HOST_KEY_DOCUMENTS
    cp -r "$(field host_key_documents)" "$SEALWRIGHT_HOST_KEY_DOCUMENTS"
    own_request=(--attestation-request "$work/hello.attestation-request"
        --attestation-request-key "$work/hello.attestation-request-key")
fi

step "building docs/examples/hello"
head -c 32 /dev/urandom | base64 >"$work/greeting_key"
"$sealwright" build "$repo_root/docs/examples/hello" -t hello:demo \
    --build-arg GREETING=Hello \
    --secret "id=greeting_key,src=$work/greeting_key" \
    --build-context "debian:bookworm=oci-layout://$base_image" \
    --output "type=oci,dest=$work/hello" --progress plain

step "stopping the server; everything from here on is offline"
stop_server

if [[ $tee == se ]]; then
    step "verifying the image without the key of the attestation request"
    status=0
    "$sealwright" verify "$work/hello" || status=$?
    ((status == 3)) || die "somebody else's verification gave exit code $status." "Wanted: 3 (it convinces only who asked)."
fi

step "verifying the image"
"$sealwright" verify "$work/hello" "${own_request[@]}"

step "altering one byte of a copy"
cp -a "$work/hello" "$work/altered"
# The last layer of the image: index.json names the image first.
manifest=$(jq -er '.manifests[0].digest' "$work/altered/index.json")
layer=$(jq -er '.layers[-1].digest' "$work/altered/blobs/${manifest/://}")
blob=$work/altered/blobs/${layer/://}
size=$(stat -c %s "$blob")
byte=$(od -An -tu1 -j $((size / 2)) -N 1 "$blob" | tr -d ' ')
printf '%b' "$(printf '\\x%02x' $((byte ^ 1)))" | dd of="$blob" bs=1 seek=$((size / 2)) conv=notrunc status=none
printf 'flipped one bit at offset %s of %s\n' "$((size / 2))" "$layer" >&2
status=0
"$sealwright" verify "$work/altered" "${own_request[@]}" || status=$?
((status == 4)) || die "the altered image gave exit code $status." "Wanted: 4 (not authentic)."

# The image and the policy stay, to be looked at; the server's state, the secret and the copy do not.
cp "$state/policy.toml" "$work/policy.toml"
rm -rf "$state" "$work/altered" "$work/greeting_key" "$work/ready" "$work/server.log"
step "done: built, verified, and the altered copy rejected (exit code 4)"
printf '%s\n' "look at it:  target/release/sealwright inspect target/demo/hello" \
    "             target/release/sealwright verify --policy target/demo/policy.toml target/demo/hello${own_request:+ \\}" \
    ${own_request:+"               --host-key-documents target/demo/host-key-documents \\
               --attestation-request target/demo/hello.attestation-request \\
               --attestation-request-key target/demo/hello.attestation-request-key"} >&2
