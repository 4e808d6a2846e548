//! Endorsements that the user gives beside the Evidence. A folder of them may be for many machines of several vendors;
//! each platform chooses what is its own.

use provenance::tdx_endorsements::TdxEndorsements;

/// Most files of endorsements that a folder may have, for programs that read one. Were each of them written by
/// `sealwright endorsements fetch`, what they hold would be within the other limits.
pub const MAX_FILES: usize = 64;
/// Most certificates that may be given: 255 host key documents, and three of each file.
pub const MAX_CERTIFICATES: usize = 512;
/// Most revocation lists that may be given.
pub const MAX_LISTS: usize = MAX_FILES;
/// Most endorsements of TDX platforms that may be given.
pub const MAX_TDX: usize = MAX_FILES;

/// Endorsements beside those that came with the Evidence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endorsements {
    /// Certificates in DER, in any order, of any machines. Of AMD: ARK, ASK or ASVK, VCEK or VLEK; those that fit the
    /// report come before the Evidence's own. Of IBM: host key documents and the chain above them. At most
    /// [`MAX_CERTIFICATES`].
    pub certificates: Vec<Vec<u8>>,
    /// Revocation lists of AMD's roots, and of the chain above host key documents, in DER. At most [`MAX_LISTS`].
    pub crls: Vec<Vec<u8>>,
    /// What Intel says about TDX platforms. What is of the platform's FMSPC and authentic is used in place of what came
    /// with the Evidence, because that ages within 30 days; the revocation lists of all are believed. At most
    /// [`MAX_TDX`].
    pub tdx: Vec<TdxEndorsements>,
}

/// More endorsements than are looked at. None is left out silently: it might be the list that revokes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{got} {what} are given, at most {limit} are looked at")]
pub struct TooManyEndorsements {
    /// What there is too much of.
    pub what: &'static str,
    /// How many there are.
    pub got: usize,
    /// The limit.
    pub limit: usize,
}

/// Checks how many there are of one kind.
pub(crate) fn check_count(what: &'static str, got: usize, limit: usize) -> Result<(), TooManyEndorsements> {
    if got > limit { Err(TooManyEndorsements { what, got, limit }) } else { Ok(()) }
}

impl Endorsements {
    /// Checks how many certificates and lists there are, with so many more of each allowed.
    pub(crate) fn check_certificates_and_lists(&self, more: usize) -> Result<(), TooManyEndorsements> {
        check_count("certificates", self.certificates.len(), MAX_CERTIFICATES + more)?;
        check_count("revocation lists", self.crls.len(), MAX_LISTS + more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_more_are_looked_at_as_are_allowed() {
        let of = |certificates: usize, crls: usize| Endorsements {
            certificates: vec![Vec::new(); certificates],
            crls: vec![Vec::new(); crls],
            ..Endorsements::default()
        };
        let too_many = |what, limit| Err(TooManyEndorsements { what, got: limit + 1, limit });
        for more in [0, 2] {
            let (certificates, lists) = (MAX_CERTIFICATES + more, MAX_LISTS + more);
            let check = |endorsements: Endorsements| endorsements.check_certificates_and_lists(more);
            assert_eq!(check(of(certificates, lists)), Ok(()));
            assert_eq!(check(of(certificates + 1, lists)), too_many("certificates", certificates));
            assert_eq!(check(of(certificates, lists + 1)), too_many("revocation lists", lists));
        }
    }
}
