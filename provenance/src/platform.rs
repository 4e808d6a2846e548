//! Platforms that an image can be built for: `linux/ARCH[/VARIANT]`, with the names of the OCI image specification.

/// Go's names of Linux' architectures (GOARCH), as the OCI image specification has them, and the variants of each.
const ARCHITECTURES: [(&str, &[&str]); 13] = [
    ("386", &[]),
    ("amd64", &["v1", "v2", "v3", "v4"]),
    ("arm", &["v5", "v6", "v7", "v8"]),
    (
        "arm64",
        &[
            "v8", "v8.1", "v8.2", "v8.3", "v8.4", "v8.5", "v8.6", "v8.7", "v8.8", "v8.9", "v9", "v9.0",
            "v9.1", "v9.2", "v9.3", "v9.4", "v9.5",
        ],
    ),
    ("loong64", &[]),
    ("mips", &[]),
    ("mips64", &[]),
    ("mips64le", &[]),
    ("mipsle", &[]),
    ("ppc64", &[]),
    ("ppc64le", &[]),
    ("riscv64", &[]),
    ("s390x", &[]),
];

/// Why nothing can be built for a platform. Fault: the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPlatform {
    /// Not two or three words.
    #[error("wanted linux/ARCH[/VARIANT], such as linux/amd64 or linux/arm/v7")]
    Form,
    /// Another operating system.
    #[error("its operating system is `{got}`, wanted linux, such as linux/amd64: nothing else is built here")]
    OperatingSystem {
        /// The one seen.
        got: String,
    },
    /// An architecture that nobody knows.
    #[error("its architecture is `{got}`, wanted one of {}, such as linux/amd64", architectures())]
    Architecture {
        /// The one seen.
        got: String,
    },
    /// A variant that this architecture does not have.
    #[error("variant of {architecture} is `{got}`, wanted {}", variants(architecture))]
    Variant {
        /// The architecture.
        architecture: String,
        /// The variant seen.
        got: String,
    },
}

fn architectures() -> String {
    ARCHITECTURES.map(|(name, _)| name).join(", ")
}

fn variants(architecture: &str) -> String {
    let known =
        ARCHITECTURES.iter().find(|(name, _)| *name == architecture).map_or(&[][..], |(_, known)| known);
    if known.is_empty() { "none".to_owned() } else { format!("none or one of {}", known.join(", ")) }
}

/// Checks that an image can be built for a platform.
pub fn check_platform(text: &str) -> Result<(), InvalidPlatform> {
    let mut words = text.split('/');
    let (Some(system), Some(architecture), variant, None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(InvalidPlatform::Form);
    };
    if system.is_empty() || architecture.is_empty() {
        return Err(InvalidPlatform::Form);
    }
    // What is shown of a stranger's word is not longer than any that would do.
    let shown = |word: &str| word.chars().take(64).collect();
    if system != "linux" {
        return Err(InvalidPlatform::OperatingSystem { got: shown(system) });
    }
    let Some((_, variants)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
        return Err(InvalidPlatform::Architecture { got: shown(architecture) });
    };
    match variant {
        Some(variant) if !variants.contains(&variant) => {
            Err(InvalidPlatform::Variant { architecture: architecture.to_owned(), got: shown(variant) })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_can_be_built_for_is_accepted() {
        for good in
            ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/arm64/v8", "linux/riscv64"]
        {
            assert_eq!(check_platform(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn each_word_is_judged() {
        use InvalidPlatform::{Architecture, Form, OperatingSystem, Variant};
        let got = |word: &str| word.to_owned();
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x"] {
            assert_eq!(check_platform(bad), Err(Form), "{bad}");
        }
        for system in ["windows", "darwin", "foo", "LINUX"] {
            assert_eq!(check_platform(&format!("{system}/amd64")), Err(OperatingSystem { got: got(system) }));
        }
        for architecture in ["nonsense", "x86_64", "AMD64"] {
            let text = format!("linux/{architecture}");
            assert_eq!(check_platform(&text), Err(Architecture { got: got(architecture) }));
        }
        for (architecture, variant) in [("arm", "v9"), ("386", "v1"), ("arm64", "")] {
            let text = format!("linux/{architecture}/{variant}");
            assert_eq!(
                check_platform(&text),
                Err(Variant { architecture: got(architecture), got: got(variant) })
            );
        }
        let none = check_platform("linux/386/v1").expect_err("no variant");
        assert_eq!(none.to_string(), "variant of 386 is `v1`, wanted none");
    }
}
