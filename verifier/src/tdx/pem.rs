//! Certificate chains in PEM (RFC 7468), read in the one form that Intel writes, so that no byte of them can be
//! changed unnoticed: lines of 64 characters, line feeds, nothing between the certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most certificates of a chain.
pub(super) const MAX_CHAIN: usize = 4;
/// Largest chain in bytes.
pub(super) const MAX_PEM: usize = 32 << 10;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----\n";
const END: &str = "-----END CERTIFICATE-----";
const LINE: usize = 64;

/// Why bytes are no certificate chain in PEM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Too many bytes.
    #[error("certificate chain has {got} bytes, at most {MAX_PEM} are read")]
    TooLarge {
        /// Bytes seen.
        got: usize,
    },
    /// Not what stands in a PEM chain.
    #[error(
        "certificate chain is not PEM in lines of 64 characters: {wanted} belongs at its offset {offset}"
    )]
    Malformed {
        /// Offset in the chain.
        offset: usize,
        /// What should stand there.
        wanted: &'static str,
    },
    /// Too many or too few certificates.
    #[error("certificate chain has {got} certificates, wanted {wanted}")]
    Count {
        /// Certificates seen.
        got: usize,
        /// Certificates wanted.
        wanted: usize,
    },
}

/// The DER of exactly `N` certificates. A line feed may be missing at the end, a single zero byte may stand there.
pub(super) fn chain<const N: usize>(bytes: &[u8]) -> Result<[Vec<u8>; N], PemError> {
    let found = certificates(bytes)?;
    let got = found.len();
    found.try_into().map_err(|_| PemError::Count { got, wanted: N })
}

fn certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, PemError> {
    if bytes.len() > MAX_PEM {
        return Err(PemError::TooLarge { got: bytes.len() });
    }
    // The Quoting Enclave's library counts the end of a C string.
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let malformed = |offset, wanted| PemError::Malformed { offset, wanted };
    let text =
        std::str::from_utf8(bytes).map_err(|error| malformed(error.valid_up_to(), "a character of PEM"))?;
    let mut found = Vec::new();
    let mut rest = text;
    let offset = |rest: &str| text.len() - rest.len();
    while !rest.is_empty() {
        if found.len() == MAX_CHAIN {
            return Err(PemError::Count { got: found.len() + 1, wanted: MAX_CHAIN });
        }
        rest = rest.strip_prefix(BEGIN).ok_or(malformed(offset(rest), "BEGIN CERTIFICATE"))?;
        let mut body = String::new();
        let mut last = false;
        while !rest.starts_with(END) {
            let (line, after) = rest.split_once('\n').ok_or(malformed(offset(rest), "END CERTIFICATE"))?;
            if last || line.is_empty() || line.len() > LINE {
                return Err(malformed(offset(rest), "a full line of 64 characters, or the last line"));
            }
            last = line.len() < LINE;
            body.push_str(line);
            rest = after;
        }
        // Strict: no characters beside the alphabet, right padding, no bits left over.
        let der = STANDARD.decode(&body).map_err(|_| malformed(offset(rest), "base64 before this"))?;
        found.push(der);
        rest = &rest[END.len()..];
        if !rest.is_empty() {
            rest = rest.strip_prefix('\n').ok_or(malformed(offset(rest), "a line feed"))?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(line: usize, certificates: usize) -> String {
        let body = STANDARD.encode([0x5a; 200]);
        let lines: Vec<_> =
            body.as_bytes().chunks(line).map(|line| std::str::from_utf8(line).expect("base64")).collect();
        format!("{BEGIN}{}\n{END}\n", lines.join("\n")).repeat(certificates)
    }

    #[test]
    fn a_chain_is_read_with_or_without_its_last_line_feed_and_with_the_end_of_a_c_string() {
        let text = pem(LINE, 2);
        let wanted = [vec![0x5a; 200], vec![0x5a; 200]];
        for form in [text.clone(), text.trim_end().to_owned(), format!("{text}\0")] {
            assert_eq!(chain::<2>(form.as_bytes()), Ok(wanted.clone()));
        }
        assert_eq!(chain::<3>(text.as_bytes()), Err(PemError::Count { got: 2, wanted: 3 }));
    }

    #[test]
    fn other_spellings_of_the_same_chain_are_refused() {
        let text = pem(LINE, 1);
        for form in [
            pem(LINE - 4, 1),
            pem(LINE + 4, 1),
            pem(1000, 1),
            text.replace('\n', "\r\n"),
            text.replacen('\n', "\n\n", 1),
            format!(" {text}"),
            format!("{text}\n"),
            format!("{text}\0\0"),
            text.replace("CERTIFICATE", "certificate"),
            text.replace('=', ""),
            text.replacen("\n-----END", "\n\n-----END", 1),
        ] {
            let answer = chain::<1>(form.as_bytes());
            assert!(matches!(answer, Err(PemError::Malformed { .. })), "{form:?}: {answer:?}");
        }
        let offset = text.len();
        let answer = chain::<1>(format!("{text}? and more").as_bytes());
        assert_eq!(answer, Err(PemError::Malformed { offset, wanted: "BEGIN CERTIFICATE" }));
    }

    #[test]
    fn there_are_limits() {
        let many = pem(LINE, MAX_CHAIN + 1);
        assert_eq!(
            certificates(many.as_bytes()),
            Err(PemError::Count { got: MAX_CHAIN + 1, wanted: MAX_CHAIN })
        );
        assert_eq!(certificates(pem(LINE, MAX_CHAIN).as_bytes()).map(|found| found.len()), Ok(MAX_CHAIN));
        let malformed = PemError::Malformed { offset: 0, wanted: "BEGIN CERTIFICATE" };
        assert_eq!(certificates(&vec![b'A'; MAX_PEM]), Err(malformed));
        let got = MAX_PEM + 1;
        assert_eq!(certificates(&vec![b'A'; got]), Err(PemError::TooLarge { got }));
    }
}
