//! Which manifest of a layout's index is the image, and what stands beside it.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use provenance::digest::Sha256Digest;

use super::{Attached, Blobs, Descriptor, ImageError, MAX_ATTACHED, MAX_MANIFEST, REF_NAME, parse_manifest};

/// Annotation under which containerd and `docker load` name what they import.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Most bytes of manifests that are read to tell an image from what stands beside it.
const MAX_READ: u64 = 64 << 20;

/// What a descriptor says, without its manifest: whether it may stand beside an image, as a referrer or under cosign's
/// tag scheme. An image of somebody else can say so too.
pub(crate) fn looks_attached(descriptor: &Descriptor) -> bool {
    let tag = descriptor.annotations.get(REF_NAME);
    descriptor.artifact_type.is_some() || tag.is_some_and(|tag| tag_target(tag).is_some())
}

/// The digest in a tag `sha256-<hex>`, `sha256-<hex>.sig` or `sha256-<hex>.att`.
fn tag_target(tag: &str) -> Option<Sha256Digest> {
    let hex = tag.strip_prefix("sha256-")?;
    let hex = hex.strip_suffix(".sig").or_else(|| hex.strip_suffix(".att")).unwrap_or(hex);
    format!("sha256:{hex}").parse().ok()
}

/// The image that `selector` names, or the only one, and everything else that the index lists.
pub(super) fn select(
    path: &Path,
    selector: Option<&str>,
    manifests: Vec<Descriptor>,
    blobs: &dyn Blobs,
) -> Result<(Descriptor, Vec<Attached>), ImageError> {
    let wrong = |problem: String| ImageError::Selection { path: path.to_owned(), problem };
    let found = match selector {
        Some(selector) => selected(selector, &manifests).map_err(wrong)?,
        None => only(&manifests, blobs, &wrong)?,
    }
    .clone();
    let length = blobs.document(&found.digest, MAX_MANIFEST)?.len() as u64;
    for listed in manifests.iter().filter(|descriptor| descriptor.digest == found.digest) {
        if listed.size != length {
            let (digest, said) = (found.digest, listed.size);
            return Err(ImageError::DescriptorSize { digest, said, got: length });
        }
    }
    let attached = manifests
        .into_iter()
        .filter(|descriptor| descriptor.digest != found.digest)
        .map(|descriptor| Attached { tag: tag(&descriptor).map(str::to_owned), descriptor })
        .collect();
    Ok((found, attached))
}

fn tag(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations.get(REF_NAME).map(String::as_str)
}

fn shown<'a>(images: impl IntoIterator<Item = &'a Descriptor>) -> String {
    let mut seen = HashSet::new();
    let list: Vec<String> = images
        .into_iter()
        .filter(|image| seen.insert((image.digest, tag(image))))
        .map(|image| {
            tag(image).map_or_else(|| image.digest.to_string(), |tag| format!("{tag} ({})", image.digest))
        })
        .collect();
    if list.is_empty() { "no image".to_owned() } else { list.join(", ") }
}

/// The image of a tag or digest.
fn selected<'a>(selector: &str, manifests: &'a [Descriptor]) -> Result<&'a Descriptor, String> {
    let by_digest = selector.parse::<Sha256Digest>().ok();
    let fits = |descriptor: &&Descriptor| match by_digest {
        Some(digest) => descriptor.digest == digest,
        None => tag(descriptor) == Some(selector),
    };
    let has = || shown(manifests.iter().filter(|descriptor| !looks_attached(descriptor)));
    let mut fitting = manifests.iter().filter(fits);
    let first = fitting.next().ok_or_else(|| format!("has no image `{selector}`; it has {}", has()))?;
    match fitting.all(|image| image.digest == first.digest) {
        true => Ok(first),
        // Another program may take another of them.
        false => Err(format!("holds several images `{selector}`; it has {}", has())),
    }
}

/// The only image: everything else that the index lists must stand beside it, or other programs could take that.
fn only<'a>(
    manifests: &'a [Descriptor],
    blobs: &dyn Blobs,
    wrong: &dyn Fn(String) -> ImageError,
) -> Result<&'a Descriptor, ImageError> {
    const NAME_ONE: &str = "name one as oci-layout://PATH:TAG or @DIGEST";
    if manifests.len() > MAX_ATTACHED {
        let count = manifests.len();
        let problem = format!("lists {count} manifests, looked at are at most {MAX_ATTACHED}; {NAME_ONE}");
        return Err(wrong(problem));
    }
    let mut images: Vec<&Descriptor> = Vec::new();
    let mut claims: BTreeMap<Sha256Digest, Vec<&Descriptor>> = BTreeMap::new();
    let mut left = MAX_READ;
    for descriptor in manifests {
        match claim(descriptor, blobs, &mut left) {
            Claim::Image => images.push(descriptor),
            Claim::Beside(target) => claims.entry(target).or_default().push(descriptor),
            Claim::Damaged => {}
            Claim::TooLong => {
                return Err(wrong(format!("has more than {MAX_READ} bytes of manifests; {NAME_ONE}")));
            }
        }
    }
    let the_only = |images: Vec<&'a Descriptor>| match images.as_slice() {
        [] => Err(wrong("holds no image".to_owned())),
        [first, rest @ ..] if rest.iter().all(|image| image.digest == first.digest) => Ok(*first),
        _ => Err(wrong(format!("holds several images: {}; {NAME_ONE}", shown(images)))),
    };
    let image = the_only(images)?;
    let root = parse_manifest(image.digest, &blobs.document(&image.digest, MAX_MANIFEST)?)?;
    // What stands beside something that stands beside the image does so too: the signature of a list of materials.
    let mut targets: Vec<Sha256Digest> = root.manifests.iter().map(|child| child.digest).collect();
    targets.push(image.digest);
    while let Some(target) = targets.pop() {
        targets.extend(claims.remove(&target).into_iter().flatten().map(|descriptor| descriptor.digest));
    }
    // Whatever refers to something else could be taken for an image.
    the_only(std::iter::once(image).chain(claims.into_values().flatten()).collect())
}

/// What a manifest of an index is by its own word.
enum Claim {
    Image,
    /// It stands beside this one.
    Beside(Sha256Digest),
    /// It does not read. What says by its descriptor that it stands beside an image is told as damage of the layout
    /// ([`super::LocalImage::damage`]), and nobody can take it for an image.
    Damaged,
    /// Too many bytes were read already.
    TooLong,
}

fn claim(descriptor: &Descriptor, blobs: &dyn Blobs, left: &mut u64) -> Claim {
    // Who asks for an image asks by its name, whatever the manifest says of itself.
    if let Some(tag) = tag(descriptor) {
        return tag_target(tag).map_or(Claim::Image, Claim::Beside);
    }
    if descriptor.annotations.contains_key(CONTAINERD_NAME) {
        return Claim::Image;
    }
    let read = blobs.document(&descriptor.digest, MAX_MANIFEST);
    let Some(rest) = left.checked_sub(read.as_ref().map_or(0, Vec::len) as u64) else {
        return Claim::TooLong;
    };
    *left = rest;
    match read.and_then(|bytes| parse_manifest(descriptor.digest, &bytes)) {
        Ok(manifest) => manifest.subject.map_or(Claim::Image, |subject| Claim::Beside(subject.digest)),
        Err(_) if descriptor.artifact_type.is_some() => Claim::Damaged,
        Err(_) => Claim::Image,
    }
}
