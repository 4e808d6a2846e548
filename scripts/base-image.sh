#!/usr/bin/env bash
# Makes a Debian bookworm base image as an OCI image layout, straight from Debian's mirror: the demo and
# the tests need a real base image and must not depend on a public registry.
#
#   base-image.sh [OUTDIR]      default: target/base-image
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

out=${1:-$repo_root/target/base-image}
out=${out%/}
[[ $(uname -s) == Linux ]] || die "this is $(uname -s); the base image can be made on Linux only."
((EUID == 0)) || die "making the base image needs root (mmdebstrap makes the files' owners and mounts /proc)." \
    "Run it as root."
case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    s390x) arch=s390x ;;
    *) die "no name in OCI and Debian is known for the machine type '$(uname -m)'." "Wanted: x86_64, aarch64 or s390x." ;;
esac
require_packages mmdebstrap gpg gpgv debian-archive-keyring ca-certificates gzip

parent=$(dirname "$out")
mkdir -p "$parent"
parent=$(cd "$parent" && pwd)
name=$(basename "$out")
out=$parent/$name
exec 9>"$parent/.$name.lock"
flock 9
key=$(hash_inputs "$here/base-image.sh" <<<"$arch")
if stamp_is "$parent" "$name" "$key" && [[ -f $out/index.json ]]; then exit 0; fi
stamp_clear "$parent" "$name"

work=$(mktemp -d "$parent/.$name.XXXXXX")
trap 'rm -rf "$work"' EXIT

say "making a Debian bookworm base image for $arch (about half a minute)"
# A fixed time, so that the same packages give the same image. (Bookworm's release.)
export SOURCE_DATE_EPOCH=1686355200
# The mirror is named, so that nothing comes from this machine's sources.list. mmdebstrap copies the host's
# resolv.conf and hostname: they are this machine's affair. Device nodes are the runtime's.
cat >"$work/sources.list" <<'SOURCES'
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
SOURCES
nice mmdebstrap --variant=apt --include=ca-certificates --architectures="$arch" --skip=output/dev \
    --customize-hook=': >"$1/etc/resolv.conf"; echo localhost >"$1/etc/hostname"' \
    bookworm "$work/rootfs.tar" - <"$work/sources.list" >"$work/log" 2>&1 || {
    grep -E '^(E|W|Err|error)' "$work/log" | tail -n 8 >&2 || true
    cp "$work/log" "$repo_root/target/mmdebstrap.log" 2>/dev/null || true
    die "mmdebstrap failed." "Is http://deb.debian.org reachable? Full output: target/mmdebstrap.log"
}

# Without its nodes /dev is left out altogether; as an empty directory every runtime expects it.
mkdir "$work/dev"
tar -rf "$work/rootfs.tar" -C "$work" --owner=0:0 --numeric-owner --mode=0755 --mtime="@$SOURCE_DATE_EPOCH" ./dev

# The layout: one gzip layer, config, manifest, index.
layout=$work/layout
mkdir -p "$layout/blobs/sha256"
digest_of() { sha256sum "$1" | cut -d' ' -f1; }
add_blob() { # FILE: moves it in and prints 'digest size'
    local d
    d=$(digest_of "$1")
    printf 'sha256:%s %s\n' "$d" "$(stat -c %s "$1")"
    mv "$1" "$layout/blobs/sha256/$d"
}
diff_id=sha256:$(digest_of "$work/rootfs.tar")
gzip -n -6 <"$work/rootfs.tar" >"$work/layer"
read -r layer_digest layer_size < <(add_blob "$work/layer")

created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)
printf '{"created":"%s","architecture":"%s","os":"linux","config":{"Env":["PATH=%s"],"Cmd":["bash"]},"rootfs":{"type":"layers","diff_ids":["%s"]},"history":[{"created":"%s","created_by":"mmdebstrap --variant=apt bookworm"}]}' \
    "$created" "$arch" /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$diff_id" "$created" >"$work/config"
read -r config_digest config_size < <(add_blob "$work/config")

printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"%s","size":%s}]}' \
    "$config_digest" "$config_size" "$layer_digest" "$layer_size" >"$work/manifest"
read -r manifest_digest manifest_size < <(add_blob "$work/manifest")

printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"bookworm"},"platform":{"architecture":"%s","os":"linux"}}]}' \
    "$manifest_digest" "$manifest_size" "$arch" >"$layout/index.json"

# A directory cannot be renamed over another: the old one goes first. The stamp is gone already, so a
# crash in between only means that the next run makes it again.
rm -rf "$out"
mv "$layout" "$out"
stamp_set "$parent" "$name" "$key"
say "base image made: $out ($manifest_digest)"
