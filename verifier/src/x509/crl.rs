//! Certificate revocation lists (RFC 5280 §5).

use der::{Reader, SliceReader, Tag};
use provenance::timestamp::Timestamp;

use super::{
    Algorithm, CRL_SIGN, Certificate, CertificateError, DistinguishedName, MAX_CRL, Profile, Signed,
    common_name, context, expect, extensions, sequence, signature_algorithm, signed, time,
};

/// A CRL read as far as its issuer. What it lists is read only once a signature holds.
pub(crate) struct UnauthenticatedList<'a> {
    tbs: &'a [u8],
    algorithm: Algorithm,
    signature: &'a [u8],
    issuer: &'a [u8],
    profile: Profile,
    rest: SliceReader<'a>,
}

impl<'a> UnauthenticatedList<'a> {
    /// Reads version, algorithm and issuer.
    pub(crate) fn parse(der: &'a [u8], profile: Profile) -> Result<Self, CertificateError> {
        if der.len() > MAX_CRL {
            return Err(CertificateError::TooLarge { got: der.len(), limit: MAX_CRL });
        }
        let Signed { tbs, algorithm, algorithm_der, signature } = signed(der, profile)?;
        let mut reader = SliceReader::new(tbs)?;
        let (mut rest, _) = sequence(&mut reader)?;
        let (version, _) =
            expect(&mut rest, Tag::Integer).map_err(|_| CertificateError::Version { wanted: 2 })?;
        if version != [1] {
            return Err(CertificateError::Version { wanted: 2 });
        }
        if signature_algorithm(&mut rest, profile)?.1 != algorithm_der {
            return Err(CertificateError::AlgorithmsDiffer);
        }
        let (_, issuer) = expect(&mut rest, Tag::Sequence)?;
        Ok(Self { tbs, algorithm, signature, issuer, profile, rest })
    }

    /// The issuer it names.
    pub(crate) fn issuer_name(&self) -> Result<DistinguishedName, CertificateError> {
        DistinguishedName::parse(self.issuer)
    }

    /// Whether the issuer it names is, byte for byte, the subject of `issuer`.
    pub(crate) fn names_as_issuer(&self, issuer: &Certificate<'_>) -> bool {
        self.issuer == issuer.subject
    }

    /// Whether it is signed with the key of `certificate`.
    pub(crate) fn is_signed_with_key_of(&self, certificate: &Certificate<'_>) -> bool {
        certificate.check_signature(self.algorithm, self.tbs, self.signature).is_ok()
    }

    /// Checks that it names `issuer`, byte for byte, and that this one may sign lists. The signature is the caller's to
    /// check.
    pub(crate) fn check_issuer(&self, issuer: &Certificate<'_>) -> Result<(), CertificateError> {
        if !self.names_as_issuer(issuer) {
            let got = common_name(self.issuer).unwrap_or_default();
            return Err(CertificateError::Issuer { got, wanted: issuer.common_name() });
        }
        // AMD's ARK certificates allow cRLSign beside keyCertSign.
        issuer.check_authority(CRL_SIGN, "CRLs")
    }

    /// Reads times, entries and extensions. The signature is the caller's to check before.
    pub(crate) fn read(self) -> Result<RevocationList, CertificateError> {
        let mut body = self.rest;
        let this_update = time(&mut body)?;
        let is_time =
            |reader: &SliceReader<'_>| matches!(Tag::peek(reader), Ok(Tag::UtcTime | Tag::GeneralizedTime));
        let next_update = if is_time(&body) { Some(time(&mut body)?) } else { None };
        let mut revoked = Vec::new();
        if matches!(Tag::peek(&body), Ok(Tag::Sequence)) {
            let (mut list, _) = sequence(&mut body)?;
            while !list.is_finished() {
                let (mut entry, _) = sequence(&mut list)?;
                revoked.push(expect(&mut entry, Tag::Integer)?.0.to_vec());
            }
        }
        if !body.is_finished() {
            let (value, _) = expect(&mut body, context(0))?;
            critical_free(value, self.profile)?;
        }
        body.finish()?;
        Ok(RevocationList { next_update, this_update, revoked })
    }
}

/// A CRL whose signature and issuer have been checked.
#[derive(Debug)]
pub(crate) struct RevocationList {
    next_update: Option<Timestamp>,
    this_update: Timestamp,
    revoked: Vec<Vec<u8>>,
}

impl RevocationList {
    /// Parses a CRL and checks that `issuer` signed it.
    pub(crate) fn authenticate(der: &[u8], issuer: &Certificate<'_>) -> Result<Self, CertificateError> {
        let list = UnauthenticatedList::parse(der, issuer.profile)?;
        list.check_issuer(issuer)?;
        issuer.check_signature(list.algorithm, list.tbs, list.signature)?;
        list.read()
    }

    /// Whether it lists this certificate.
    pub(crate) fn lists(&self, certificate: &Certificate<'_>) -> bool {
        self.revoked.iter().any(|serial| serial == certificate.serial)
    }

    /// Checks that `now` lies between thisUpdate and nextUpdate. A CRL without nextUpdate is never fresh.
    pub(crate) fn check_fresh(&self, now: Timestamp) -> Result<(), CertificateError> {
        if now < self.this_update {
            return Err(CertificateError::NotYetValid { not_before: self.this_update, now });
        }
        let not_after = self.next_update.unwrap_or(self.this_update);
        if now > not_after { Err(CertificateError::Expired { not_after, now }) } else { Ok(()) }
    }
}

/// Critical CRL extensions change what a CRL covers (RFC 5280 §5.2.5); none is understood here.
fn critical_free(explicit: &[u8], profile: Profile) -> Result<(), CertificateError> {
    extensions(explicit, profile).map(|_| ())
}
