//! Running the targets over their seeds.

use std::path::Path;

use crate::{TARGETS, Target};

fn accepted(folder: &Path, target: Target) -> std::io::Result<(usize, usize)> {
    let (mut seeds, mut accepted) = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        seeds += 1;
        accepted += usize::from(target(&std::fs::read(entry?.path())?));
    }
    Ok((seeds, accepted))
}

/// Runs each target over its own folder below `seeds`; says which targets accept none. A target that nothing gets into
/// looks at the surface only.
#[must_use]
pub fn complaints(seeds: &Path) -> Vec<String> {
    TARGETS
        .iter()
        .filter_map(|(name, target)| {
            let folder = seeds.join(name);
            match accepted(&folder, *target) {
                Ok((_, 1..)) => None,
                Ok((seen, 0)) => Some(format!("{name}: accepts none of its {seen} seeds")),
                Err(error) => Some(format!("{name}: {}: {error}", folder.display())),
            }
        })
        .collect()
}
