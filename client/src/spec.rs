//! Values of the flags that `docker buildx build` users know: `--secret`, `--ssh`, `--output`, `--add-host`,
//! contexts and platforms. Parsing only; nothing is read here.

use std::path::PathBuf;

use provenance::platform::check_platform;
use provenance::request::Compression;

/// A flag value that does not parse. Fault: the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} `{got}`: {problem}")]
pub struct InvalidFlag {
    /// The flag.
    pub flag: &'static str,
    /// The value as it came (never a secret's value).
    pub got: String,
    /// What is wrong, and what is wanted.
    pub problem: String,
}

fn invalid(flag: &'static str, got: &str, problem: impl Into<String>) -> InvalidFlag {
    InvalidFlag { flag, got: got.to_owned(), problem: problem.into() }
}

/// Where a secret's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// The variable named like the id if it is set, else the file of that name (as buildx does).
    Guess,
}

/// One `--secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSpec {
    /// Id in the Dockerfile.
    pub id: String,
    /// Where the value is.
    pub source: SecretSource,
}

/// One `--ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSpec {
    /// Id in the Dockerfile; `default` unless named.
    pub id: String,
    /// Socket of the agent; the one of `SSH_AUTH_SOCK` when absent.
    pub socket: Option<PathBuf>,
}

/// A context, main or named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSpec {
    /// A directory.
    Directory(PathBuf),
    /// A git URL with optional `#ref:subdir`.
    Git(String),
    /// An image of a registry.
    Image(String),
    /// An image of an OCI layout.
    OciLayout {
        /// The layout's directory.
        path: PathBuf,
        /// Tag, or digest with its `sha256:`.
        selector: Option<String>,
    },
    /// Standard input.
    Stdin,
}

/// Where the result goes on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere (a push only).
    Nowhere,
    /// OCI layout directory.
    LayoutDirectory(PathBuf),
    /// OCI layout as a tar file; `-` is standard output.
    LayoutTar(PathBuf),
    /// Files of the last stage in a directory.
    FilesDirectory(PathBuf),
    /// The same as a tar file; `-` is standard output.
    FilesTar(PathBuf),
}

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Where to.
    pub destination: Destination,
    /// Push to the registries of the names.
    pub push: bool,
    /// Names given with `name=`.
    pub names: Vec<String>,
    /// Compression of new layers.
    pub compression: Compression,
    /// All times of the image are set to SOURCE_DATE_EPOCH.
    pub rewrite_timestamp: bool,
    /// Further files that are written with the result (`--metadata-file`, `--iidfile`).
    pub beside: Vec<PathBuf>,
}

impl Default for OutputSpec {
    fn default() -> Self {
        Self {
            destination: Destination::Nowhere,
            push: false,
            names: Vec::new(),
            compression: Compression::Gzip,
            rewrite_timestamp: false,
            beside: Vec::new(),
        }
    }
}

/// Splits a comma list with CSV quoting (`"a,b",c`), as buildx reads its flags.
fn csv(flag: &'static str, text: &str) -> Result<Vec<String>, InvalidFlag> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err(invalid(flag, text, "a quote is not closed"));
    }
    fields.push(field);
    Ok(fields)
}

fn pairs(flag: &'static str, text: &str) -> Result<Vec<(String, Option<String>)>, InvalidFlag> {
    let fields = csv(flag, text)?;
    Ok(fields
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value.to_owned())),
            None => (field, None),
        })
        .collect())
}

fn boolean(flag: &'static str, text: &str, key: &str, value: &str) -> Result<bool, InvalidFlag> {
    match value {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
        other => Err(invalid(flag, text, format!("{key} is `{other}`, wanted true or false"))),
    }
}

/// Parses `id=ID[,type=file|env][,src=FILE|,env=VARIABLE]`.
pub fn parse_secret(text: &str) -> Result<SecretSpec, InvalidFlag> {
    const FLAG: &str = "--secret";
    let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
    for (key, value) in pairs(FLAG, text)? {
        let value = value
            .ok_or_else(|| invalid(FLAG, text, format!("`{key}` has no value; wanted id=ID,src=FILE")))?;
        match key.as_str() {
            "id" => id = Some(value),
            "type" if value == "file" || value == "env" => kind = Some(value),
            "type" => return Err(invalid(FLAG, text, format!("type is `{value}`, wanted file or env"))),
            "src" | "source" => file = Some(value),
            "env" => variable = Some(value),
            other => {
                return Err(invalid(
                    FLAG,
                    text,
                    format!("unknown key `{other}`; known are id, type, src, env"),
                ));
            }
        }
    }
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| invalid(FLAG, text, "has no id; wanted id=ID,src=FILE"))?;
    let source = match (kind.as_deref(), file, variable) {
        (_, Some(_), Some(_)) => return Err(invalid(FLAG, text, "has both src and env; wanted one of them")),
        (Some("env"), Some(name), None) | (_, None, Some(name)) => SecretSource::Environment(name),
        (_, Some(file), None) => SecretSource::File(PathBuf::from(file)),
        (_, None, None) => SecretSource::Guess,
    };
    Ok(SecretSpec { id, source })
}

/// Parses `default` or `ID[=SOCKET]`.
pub fn parse_ssh(text: &str) -> Result<SshSpec, InvalidFlag> {
    let (id, socket) = match text.split_once('=') {
        Some((id, socket)) if !socket.is_empty() => (id, Some(PathBuf::from(socket))),
        Some((_, _)) => return Err(invalid("--ssh", text, "names no socket; wanted ID=SOCKET or just ID")),
        None => (text, None),
    };
    let id = if id.is_empty() { "default" } else { id };
    Ok(SshSpec { id: id.to_owned(), socket })
}

/// Parses `HOST:ADDRESS` or `HOST=ADDRESS`; IPv6 with or without brackets.
pub fn parse_add_host(text: &str) -> Result<(String, String), InvalidFlag> {
    let wanted = || invalid("--add-host", text, "wanted HOST:ADDRESS with an IP address");
    let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(wanted)?;
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if address == "host-gateway" {
        return Err(invalid(
            "--add-host",
            text,
            "host-gateway has no meaning here: steps run in the guest; give an IP address",
        ));
    }
    let parsed: std::net::IpAddr = address.parse().map_err(|_| wanted())?;
    if host.is_empty() { Err(wanted()) } else { Ok((host.to_owned(), parsed.to_string())) }
}

/// Parses the main context: a directory, a git URL, or `-`.
pub fn parse_context(text: &str) -> Result<ContextSpec, InvalidFlag> {
    if text == "-" {
        return Ok(ContextSpec::Stdin);
    }
    parse_git_or_directory("context", text)
}

/// Parses `NAME=VALUE` of `--build-context`.
pub fn parse_named_context(text: &str) -> Result<(String, ContextSpec), InvalidFlag> {
    const FLAG: &str = "--build-context";
    let (name, value) = text
        .split_once('=')
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .ok_or_else(|| {
            invalid(
                FLAG,
                text,
                "wanted NAME=DIR, NAME=oci-layout://PATH, NAME=docker-image://REF or a git URL",
            )
        })?;
    let spec = if let Some(reference) = value.strip_prefix("docker-image://") {
        ContextSpec::Image(reference.to_owned())
    } else if let Some(rest) = value.strip_prefix("oci-layout://") {
        let (path, selector) = match rest.split_once('@') {
            Some((path, digest)) => (path, Some(digest.to_owned())),
            None => match rest.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
                _ => (rest, None),
            },
        };
        ContextSpec::OciLayout { path: PathBuf::from(path), selector }
    } else {
        parse_git_or_directory(FLAG, value)?
    };
    // Docker compares the names of contexts without regard to case.
    Ok((name.to_ascii_lowercase(), spec))
}

fn parse_git_or_directory(flag: &'static str, text: &str) -> Result<ContextSpec, InvalidFlag> {
    if std::path::Path::new(text).is_dir() {
        return Ok(ContextSpec::Directory(PathBuf::from(text)));
    }
    let before_fragment = text.split('#').next().unwrap_or(text);
    let before_query = before_fragment.split('?').next().unwrap_or(before_fragment);
    let scheme = |s: &str| text.starts_with(s);
    if scheme("git://") || scheme("ssh://") || scheme("git@") || scheme("github.com/") {
        return Ok(ContextSpec::Git(text.to_owned()));
    }
    if scheme("https://") || scheme("http://") {
        if before_query.ends_with(".git") {
            return Ok(ContextSpec::Git(text.to_owned()));
        }
        return Err(invalid(
            flag,
            text,
            "is a URL but no git repository (those end in .git); archives over http are not supported",
        ));
    }
    Ok(ContextSpec::Directory(PathBuf::from(text)))
}

/// Parses `--output`.
pub fn parse_output(text: &str) -> Result<OutputSpec, InvalidFlag> {
    const FLAG: &str = "--output";
    let mut spec = OutputSpec::default();
    let fields = pairs(FLAG, text)?;
    // The short form: a directory, or `-` for a tar stream.
    if let [(path, None)] = fields.as_slice() {
        spec.destination = match path.as_str() {
            "" => return Err(invalid(FLAG, text, "is empty; wanted type=oci,dest=PATH or a directory")),
            "-" => Destination::FilesTar(PathBuf::from("-")),
            path => Destination::FilesDirectory(PathBuf::from(path)),
        };
        return Ok(spec);
    }
    let (mut kind, mut dest, mut tar, mut push) = (None, None, None, false);
    for (key, value) in fields {
        let value = value.ok_or_else(|| invalid(FLAG, text, format!("`{key}` has no value")))?;
        match key.as_str() {
            "type" => kind = Some(value),
            "dest" if value.is_empty() => return Err(invalid(FLAG, text, "dest is empty; wanted dest=PATH")),
            "dest" => dest = Some(PathBuf::from(value)),
            "tar" => tar = Some(boolean(FLAG, text, "tar", &value)?),
            "push" => push = boolean(FLAG, text, "push", &value)?,
            "name" => spec.names.push(value),
            "rewrite-timestamp" => spec.rewrite_timestamp = boolean(FLAG, text, "rewrite-timestamp", &value)?,
            "compression" => {
                spec.compression = match value.as_str() {
                    "gzip" => Compression::Gzip,
                    "zstd" => Compression::Zstd,
                    "uncompressed" => Compression::Uncompressed,
                    other => {
                        let problem = format!("compression is `{other}`, wanted gzip, zstd or uncompressed");
                        return Err(invalid(FLAG, text, problem));
                    }
                }
            }
            "oci-mediatypes" if boolean(FLAG, text, &key, &value)? => {}
            other => {
                let problem = format!(
                    "unknown or unsupported key `{other}`; known are type, dest, tar, push, name, compression, rewrite-timestamp"
                );
                return Err(invalid(FLAG, text, problem));
            }
        }
    }
    let is_tar = |dest: &PathBuf| {
        tar.unwrap_or_else(|| {
            dest.as_os_str() == "-" || dest.extension().is_some_and(|extension| extension == "tar")
        })
    };
    let need_dest =
        |dest: Option<PathBuf>| dest.ok_or_else(|| invalid(FLAG, text, "has no dest; wanted dest=PATH"));
    match kind.as_deref() {
        Some("oci") => {
            let dest = dest.unwrap_or_else(|| PathBuf::from(DEFAULT_LAYOUT));
            spec.destination =
                if is_tar(&dest) { Destination::LayoutTar(dest) } else { Destination::LayoutDirectory(dest) };
            spec.push = push;
        }
        Some("local") => spec.destination = Destination::FilesDirectory(need_dest(dest)?),
        Some("tar") => spec.destination = Destination::FilesTar(need_dest(dest)?),
        Some("image") if dest.is_none() => spec.push = push,
        Some("registry") if dest.is_none() => spec.push = true,
        Some("image" | "registry") => {
            return Err(invalid(FLAG, text, "takes no dest; wanted type=oci for a file or directory"));
        }
        Some("docker") => {
            let problem =
                "type docker is not supported; use type=oci,dest=FILE.tar and `docker load -i FILE.tar`";
            return Err(invalid(FLAG, text, problem));
        }
        Some(other) => {
            return Err(invalid(
                FLAG,
                text,
                format!("type is `{other}`, wanted oci, registry, image, local or tar"),
            ));
        }
        None => return Err(invalid(FLAG, text, "has no type; wanted type=oci,dest=PATH or a directory")),
    }
    Ok(spec)
}

/// Where an OCI layout goes when nothing else is said.
pub const DEFAULT_LAYOUT: &str = "image.oci";

/// Splits a list of platforms, drops repetitions and brings each to `linux/arch[/variant]`.
pub fn parse_platforms(values: &[String]) -> Result<Vec<String>, InvalidFlag> {
    let mut platforms: Vec<String> = Vec::new();
    for value in values {
        for platform in value.split(',') {
            let seen = platform.trim();
            let platform = normal_platform(seen);
            check_platform(&platform).map_err(|problem| invalid("--platform", seen, problem.to_string()))?;
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
    }
    Ok(platforms)
}

/// containerd's normal form of a platform, known or not; an architecture alone is one of Linux.
fn normal_platform(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    let (os, arch, variant) = match parts.as_slice() {
        [arch] if !arch.is_empty() && *arch != "linux" => ("linux", *arch, None),
        [os, arch] => (*os, *arch, None),
        [os, arch, variant] => (*os, *arch, Some(*variant)),
        _ => return lower,
    };
    let (arch, variant) = match (arch, variant) {
        ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("i386", _) => ("386", None),
        ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        other => other,
    };
    match variant {
        Some(variant) => format!("{os}/{arch}/{variant}"),
        None => format!("{os}/{arch}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_name_a_file_a_variable_or_neither() {
        let of = |text: &str| parse_secret(text).map(|spec| (spec.id, spec.source));
        assert_eq!(
            of("id=a,src=/x,y"),
            Err(invalid("--secret", "id=a,src=/x,y", "`y` has no value; wanted id=ID,src=FILE"))
        );
        assert_eq!(of("id=a,\"src=/x,y\""), Ok(("a".into(), SecretSource::File("/x,y".into()))));
        assert_eq!(of("id=a,env=B"), Ok(("a".into(), SecretSource::Environment("B".into()))));
        assert_eq!(of("type=env,id=a,src=B"), Ok(("a".into(), SecretSource::Environment("B".into()))));
        assert_eq!(of("id=a"), Ok(("a".into(), SecretSource::Guess)));
        for bad in
            ["src=x", "id=,src=x", "id=a,src=b,env=c", "id=a,colour=red", "id=a,type=vault", "id=a,\"src=x"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn outputs_are_layouts_files_or_pushes() {
        let of = |text: &str| parse_output(text).map(|spec| (spec.destination, spec.push));
        assert_eq!(of("type=oci,dest=a.tar"), Ok((Destination::LayoutTar("a.tar".into()), false)));
        assert_eq!(of("type=oci,dest=a"), Ok((Destination::LayoutDirectory("a".into()), false)));
        assert_eq!(of("type=oci,dest=a,tar=true"), Ok((Destination::LayoutTar("a".into()), false)));
        assert_eq!(of("type=oci"), Ok((Destination::LayoutDirectory("image.oci".into()), false)));
        assert_eq!(of("type=oci,dest=a,push=true"), Ok((Destination::LayoutDirectory("a".into()), true)));
        assert_eq!(of("type=registry"), Ok((Destination::Nowhere, true)));
        assert_eq!(of("out"), Ok((Destination::FilesDirectory("out".into()), false)));
        assert_eq!(of("-"), Ok((Destination::FilesTar("-".into()), false)));
        assert_eq!(of("type=local,dest=out"), Ok((Destination::FilesDirectory("out".into()), false)));
        for kind in ["oci", "local", "tar"] {
            let text = format!("type={kind},dest=");
            assert_eq!(
                parse_output(&text),
                Err(invalid("--output", &text, "dest is empty; wanted dest=PATH")),
                "before anything is built"
            );
        }
        for bad in [
            "",
            "type=docker",
            "type=local",
            "type=x",
            "dest=a",
            "type=oci,compression=xz",
            "type=oci,colour=red",
            "type=registry,dest=a",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms_come_in_their_normal_form_each_once() {
        let list = [
            "linux/x86_64,LINUX/amd64".to_owned(),
            "arm64".to_owned(),
            "linux/arm".to_owned(),
            "linux/arm64/v8".to_owned(),
        ];
        assert_eq!(
            parse_platforms(&list),
            Ok(vec!["linux/amd64".into(), "linux/arm64".into(), "linux/arm/v7".into()])
        );
        for (bad, problem) in [
            ("linux//amd64", "wanted linux/ARCH[/VARIANT], such as linux/amd64 or linux/arm/v7"),
            ("linux", "wanted linux/ARCH[/VARIANT], such as linux/amd64 or linux/arm/v7"),
            ("nonsense", "its architecture is `nonsense`, wanted one of 386, amd64, arm, arm64, loong64"),
            ("foo/bar", "its operating system is `foo`, wanted linux, such as linux/amd64"),
            ("windows/amd64", "its operating system is `windows`, wanted linux"),
            ("linux/arm/v9", "variant of arm is `v9`, wanted none or one of v5, v6, v7, v8"),
        ] {
            let error = parse_platforms(&["linux/amd64".to_owned(), bad.to_owned()]).expect_err(bad);
            assert_eq!((error.flag, error.got.as_str()), ("--platform", bad));
            assert!(error.problem.starts_with(problem), "{error}");
        }
    }

    #[test]
    fn contexts_are_told_apart_as_docker_does() {
        assert_eq!(parse_context("-"), Ok(ContextSpec::Stdin));
        for git in [
            "https://h.example/r.git",
            "https://h.example/r.git#v1:sub",
            "git@h.example:r.git",
            "ssh://h/r",
            "github.com/a/b",
        ] {
            assert_eq!(parse_context(git), Ok(ContextSpec::Git(git.to_owned())));
        }
        assert!(parse_context("https://h.example/archive.tar.gz").is_err());
        let layout = |selector: Option<&str>| ContextSpec::OciLayout {
            path: "/a/b".into(),
            selector: selector.map(str::to_owned),
        };
        let of = |text: &str| parse_named_context(text).map(|(_, spec)| spec);
        assert_eq!(of("x=oci-layout:///a/b"), Ok(layout(None)));
        assert_eq!(of("x=oci-layout:///a/b:tag"), Ok(layout(Some("tag"))));
        assert_eq!(of("x=oci-layout:///a/b@sha256:00"), Ok(layout(Some("sha256:00"))));
        assert_eq!(of("x=docker-image://debian"), Ok(ContextSpec::Image("debian".into())));
        assert!(of("x").is_err() && of("=y").is_err());
    }

    #[test]
    fn hosts_have_an_address() {
        assert_eq!(parse_add_host("a:10.0.0.1"), Ok(("a".into(), "10.0.0.1".into())));
        assert_eq!(parse_add_host("a=[::1]"), Ok(("a".into(), "::1".into())));
        assert_eq!(parse_add_host("a:::1"), Ok(("a".into(), "::1".into())));
        assert!(parse_add_host("a:host-gateway").is_err() && parse_add_host("a").is_err());
    }
}
