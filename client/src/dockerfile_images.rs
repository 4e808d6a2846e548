//! Which registries a Dockerfile names, so that logins go to those and to no others. A simple reading is
//! enough: what it misses is asked for without a login, what it finds is a registry that the file does name.

use std::collections::{BTreeMap, BTreeSet};

use crate::image_name::ImageName;

/// Registries of `FROM`, `COPY --from` and `RUN --mount=…from=` of a Dockerfile.
#[must_use]
pub(crate) fn registries(dockerfile: &str, build_args: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    let mut stages: BTreeSet<String> = BTreeSet::new();
    let mut found = BTreeSet::new();
    for line in logical_lines(dockerfile) {
        let mut words = line.split_ascii_whitespace();
        let Some(instruction) = words.next() else { continue };
        let words: Vec<&str> = words.collect();
        let mut note = |reference: &str, stages: &BTreeSet<String>| {
            let Some(reference) = expand(reference, &variables) else { return };
            let is_number = reference.bytes().all(|b| b.is_ascii_digit());
            if reference == "scratch" || is_number || stages.contains(&reference.to_ascii_lowercase()) {
                return;
            }
            if let Ok(name) = reference.parse::<ImageName>() {
                found.insert(name.registry().to_owned());
            }
        };
        match instruction.to_ascii_uppercase().as_str() {
            "ARG" => {
                for word in words {
                    let (name, default) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
                    let default = default.map(|value| value.trim_matches(['"', '\'']).to_owned());
                    if let Some(value) = build_args.get(name).cloned().or(default) {
                        variables.insert(name.to_owned(), value);
                    }
                }
            }
            "FROM" => {
                let operands: Vec<&&str> = words.iter().filter(|word| !word.starts_with("--")).collect();
                if let Some(reference) = operands.first() {
                    note(reference, &stages);
                }
                if let [_, keyword, name, ..] = operands.as_slice()
                    && keyword.eq_ignore_ascii_case("as")
                {
                    stages.insert(name.to_ascii_lowercase());
                }
            }
            "COPY" | "ADD" => {
                words.iter().filter_map(|w| w.strip_prefix("--from=")).for_each(|r| note(r, &stages))
            }
            "RUN" => words
                .iter()
                .filter_map(|word| word.strip_prefix("--mount="))
                .flat_map(|options| options.split(','))
                .filter_map(|option| option.strip_prefix("from="))
                .for_each(|reference| note(reference, &stages)),
            _ => {}
        }
    }
    found
}

/// Lines with continuations joined, without comments.
fn logical_lines(dockerfile: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in dockerfile.lines() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => {
                current.push_str(part);
                current.push(' ');
            }
            None => {
                current.push_str(line);
                lines.push(std::mem::take(&mut current));
            }
        }
    }
    lines.push(current);
    lines
}

/// Replaces `$NAME`, `${NAME}` and `${NAME:-default}`; `None` when a variable is unknown.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> Option<String> {
    let mut out = String::new();
    let mut rest = text.trim_matches(['"', '\'']);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, default, next) = if let Some(braced) = after.strip_prefix('{') {
            let (inside, next) = braced.split_once('}')?;
            match inside.split_once(":-").or_else(|| inside.split_once('-')) {
                Some((name, default)) => (name, Some(default), next),
                None => (inside, None, next),
            }
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            (&after[..end], None, &after[end..])
        };
        out.push_str(variables.get(name).map(String::as_str).or(default)?);
        rest = next;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_of_stages_copies_and_mounts_are_found() {
        let dockerfile = "\
# syntax=docker/dockerfile:1\nARG BASE=base.example/a\nARG V\nFROM --platform=linux/amd64 ${BASE}:1 AS Build\n\
RUN --mount=type=bind,from=tools.example:5000/t,target=/t \\\n  echo x\nFROM build\nFROM scratch\n\
COPY --from=0 /a /b\nCOPY --from=build /a /b\nCOPY --from=copy.example/c:2 /a /b\nFROM $V\nFROM $UNKNOWN/x\n";
        let args = BTreeMap::from([("V".to_owned(), "debian:bookworm".to_owned())]);
        let found: Vec<String> = registries(dockerfile, &args).into_iter().collect();
        assert_eq!(found, ["base.example", "copy.example", "docker.io", "tools.example:5000"]);
    }
}
