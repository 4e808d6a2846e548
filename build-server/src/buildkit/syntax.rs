//! The `# syntax=` directive. BuildKit would fetch the frontend that it names; here the built-in one serves
//! docker/dockerfile, and a Dockerfile for any other frontend is refused rather than built by the wrong one.

use super::error::EngineError;

/// Bytes of a Dockerfile that are looked at; directives stand at its top.
pub(super) const MAX_LOOKED_AT: u64 = 16 << 20;

/// The directive's value as written, when it names the frontend that is built in.
pub(super) fn check_syntax(dockerfile: &[u8]) -> Result<Option<String>, EngineError> {
    let Some(value) = directive(dockerfile) else { return Ok(None) };
    let image = value.split(' ').next().unwrap_or_default();
    if is_builtin(image) { Ok(Some(value)) } else { Err(EngineError::UnsupportedSyntax { got: value }) }
}

/// `docker/dockerfile`, with `docker.io/` before or not, with tag `1`, `1.N`, `1.N.N` or `latest`, or without.
fn is_builtin(image: &str) -> bool {
    let Some(rest) = image.strip_prefix("docker.io/").unwrap_or(image).strip_prefix("docker/dockerfile")
    else {
        return false;
    };
    let Some(tag) = rest.strip_prefix(':') else { return rest.is_empty() };
    let mut parts = tag.split('.');
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    tag == "latest" || parts.next() == Some("1") && parts.clone().count() <= 2 && parts.all(number)
}

fn directive(dockerfile: &[u8]) -> Option<String> {
    let text = dockerfile.strip_prefix(b"\xef\xbb\xbf").unwrap_or(dockerfile);
    let text = match text.strip_prefix(b"#!") {
        Some(_) => text.iter().position(|b| *b == b'\n').map_or(&[][..], |at| &text[at + 1..]),
        None => text,
    };
    commented(text, b"#").or_else(|| commented(text, b"//")).or_else(|| {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
        object.get("syntax")?.as_str().map(str::to_owned)
    })
}

/// Looks through the directives at the top: comments `name = value` with a known name, nothing else between.
fn commented(text: &[u8], comment: &[u8]) -> Option<String> {
    for line in text.split(|b| *b == b'\n') {
        let line = String::from_utf8_lossy(line.strip_prefix(comment)?).into_owned();
        let (name, value) = line.split_once('=')?;
        let name = name.trim();
        let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric());
        let value = value.trim();
        if !plain || value.is_empty() {
            return None;
        }
        match name.to_ascii_lowercase().as_str() {
            "syntax" => return Some(value.to_owned()),
            "escape" | "check" => {}
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_frontend_is_known_by_all_its_names() {
        for good in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker.io/docker/dockerfile:1.17",
            "docker/dockerfile:1.4.2",
        ] {
            let file = format!("# escape=\\\n#syntax = {good} \r\nFROM scratch\n");
            assert_eq!(check_syntax(file.as_bytes()).expect(good), Some(good.to_owned()));
        }
        assert_eq!(check_syntax(b"FROM scratch\n# syntax=x/y").expect("not at the top"), None);
        assert_eq!(check_syntax(b"# a comment\n# syntax=x/y\n").expect("after a comment"), None);
    }

    #[test]
    fn any_other_frontend_is_refused() {
        for bad in [
            "# syntax=docker/dockerfile:1-labs",
            "# syntax=docker/dockerfile:2",
            "# SYNTAX = docker/dockerfile-upstream:master",
            "#!/bin/x\n# check=skip=all\n#syntax=docker/dockerfile@sha256:00",
            "\u{feff}//syntax=example.org/docker/dockerfile:1",
            "{\"syntax\": \"a/b\"}",
        ] {
            assert!(
                matches!(check_syntax(bad.as_bytes()), Err(EngineError::UnsupportedSyntax { .. })),
                "{bad}"
            );
        }
    }
}
