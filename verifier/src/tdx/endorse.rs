//! What Intel says about the platform of a quote: choosing among the endorsements at hand, and believing every
//! revocation list among them. Steps 9 to 14 of the list in the module above.

use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;

use super::collateral::{QeIdentity, Rank, Signer, TcbInfo, TrustedRoot};
use super::{AuthenticQuote, CertificateName, CrlName, Document, SignedQuote, TdxError, parse, tcb};
use crate::roots::Revocation;
use crate::time::Moment;
use crate::x509::{Certificate, RevocationList};

/// The PCK chain of a quote, parsed.
struct Chain<'a> {
    pck: Certificate<'a>,
    ca: Certificate<'a>,
    root: Certificate<'a>,
}

/// Every list at hand that the issuer signed, whatever its age.
struct Lists {
    root: Vec<RevocationList>,
    pck_ca: Vec<RevocationList>,
}

/// Intel's signed word on one platform.
struct Word {
    info: TcbInfo,
    identity: QeIdentity,
}

impl Chain<'_> {
    /// What is signed by others is of another platform, or of no use: the chosen endorsements are judged strictly.
    fn lists_of(&self, at_hand: &[&TdxEndorsements]) -> Lists {
        let signed = |der: &[u8], issuer| RevocationList::authenticate(der, issuer).ok();
        Lists {
            root: at_hand.iter().filter_map(|set| signed(&set.root_ca_crl, &self.root)).collect(),
            pck_ca: at_hand.iter().filter_map(|set| signed(&set.pck_crl, &self.ca)).collect(),
        }
    }

    fn check_revocation(&self, lists: &Lists) -> Result<(), TdxError> {
        for (lists, certificate, which) in [
            (&lists.root, &self.ca, CertificateName::PckCa),
            (&lists.pck_ca, &self.pck, CertificateName::Pck),
        ] {
            if lists.iter().any(|list| list.lists(certificate)) {
                return Err(TdxError::Revoked { which });
            }
        }
        Ok(())
    }
}

impl Lists {
    /// Checks that one list of each issuer is current; `missing` where there is none.
    fn check_current(&self, today: Timestamp, missing: &TdxError) -> Result<(), TdxError> {
        for (which, lists) in [(CrlName::Root, &self.root), (CrlName::PckCa, &self.pck_ca)] {
            let mut current = Err(missing.clone());
            for list in lists {
                if current.is_err() {
                    current = list.check_fresh(today).map_err(|error| TdxError::Crl { which, error });
                }
            }
            current?;
        }
        Ok(())
    }
}

fn check_fresh_crl(
    which: CrlName,
    der: &[u8],
    issuer: &Certificate<'_>,
    now: Timestamp,
) -> Result<(), TdxError> {
    RevocationList::authenticate(der, issuer)
        .and_then(|list| list.check_fresh(now))
        .map_err(|error| TdxError::Crl { which, error })
}

impl SignedQuote {
    fn parse_chain(&self) -> Result<Chain<'_>, TdxError> {
        let [pck, ca, root] = &self.chain;
        Ok(Chain {
            pck: parse(CertificateName::Pck, pck)?,
            ca: parse(CertificateName::PckCa, ca)?,
            root: parse(CertificateName::Root, root)?,
        })
    }

    /// Steps 9 to 12 for one set of endorsements.
    fn authenticate_word(
        &self,
        chain: &Chain<'_>,
        endorsements: &TdxEndorsements,
        lists: &Lists,
        now: Timestamp,
    ) -> Result<Word, TdxError> {
        // Step 9.
        check_fresh_crl(CrlName::Root, &endorsements.root_ca_crl, &chain.root, now)?;
        check_fresh_crl(CrlName::PckCa, &endorsements.pck_crl, &chain.ca, now)?;

        // Steps 10 to 12.
        let root = TrustedRoot { certificate: &chain.root, lists: &lists.root };
        let issuers = &endorsements.tcb_info_issuer_chain;
        let signer = Signer::authenticate(Document::TcbInfo, issuers, &root, now)?;
        let info = TcbInfo::authenticate(endorsements, &signer, now)?;
        let issuers = &endorsements.qe_identity_issuer_chain;
        let signer = signer.or_authenticate(Document::QeIdentity, issuers, &root, now)?;
        let identity = QeIdentity::authenticate(endorsements, &signer, now)?;
        for (name, got, wanted) in [
            ("FMSPC", &info.fmspc.0[..], &self.facts.fmspc[..]),
            ("PCE id", &info.pce_id.0[..], &self.facts.pceid[..]),
        ] {
            if got != wanted {
                return Err(TdxError::OtherPlatform {
                    name,
                    got: hex::encode(got),
                    wanted: hex::encode(wanted),
                });
            }
        }
        Ok(Word { info, identity })
    }

    /// Finds what Intel says about the platform, as of `now`: steps 9 to 14.
    pub fn endorse(self, endorsements: &TdxEndorsements, now: Timestamp) -> Result<AuthenticQuote, TdxError> {
        self.endorse_with_first(&[endorsements], &[endorsements], Revocation::CrlIfPresent, now.into())
    }

    /// The same with the first of `candidates` that is authentic, and with every list `at_hand`. What was revoked is
    /// revoked, whoever brought the list and whatever its age. Where the policy demands lists, one of each must be
    /// current today, too.
    ///
    /// The platform is judged by that one alone: where the newest says that it is not what it should be, nobody asks an
    /// older one.
    fn endorse_with_first(
        self,
        at_hand: &[&TdxEndorsements],
        candidates: &[&TdxEndorsements],
        rule: Revocation,
        moment: Moment,
    ) -> Result<AuthenticQuote, TdxError> {
        let missing = TdxError::MissingEndorsements { fmspc: hex::encode(self.facts.fmspc) };
        let chain = self.parse_chain()?;
        let lists = chain.lists_of(at_hand);
        chain.check_revocation(&lists)?;
        if moment.is_past() && rule == Revocation::CrlRequired {
            lists.check_current(moment.today(), &missing)?;
        }
        let mut word = Err(missing);
        for (index, candidate) in candidates.iter().enumerate() {
            match self.authenticate_word(&chain, candidate, &lists, moment.at()) {
                Ok(authentic) => {
                    word = Ok(authentic);
                    break;
                }
                // Of several that are no use the first is the one to heal, unless the signer of one is revoked.
                Err(error) if index == 0 || matches!(error, TdxError::Revoked { .. }) => word = Err(error),
                Err(_) => {}
            }
        }
        let Word { info, identity } = word?;

        // Steps 13 and 14.
        let tcb = tcb::judge(&self.quote, &self.facts, &info, &identity)?;
        self.quote.check_padding()?;
        Ok(AuthenticQuote { signed: self, tcb })
    }

    /// Endorses the quote with the best at hand.
    ///
    /// Today what is given beside the Evidence comes first: it is given because what came with the Evidence has aged,
    /// and whoever sent the Evidence cannot replace it. At a proven time of the past what came with it was current. Of
    /// several given the newest comes first, as they say of themselves; the signatures bind that.
    pub(super) fn endorse_with_best(
        self,
        given: &[TdxEndorsements],
        own: Option<&TdxEndorsements>,
        rule: Revocation,
        moment: Moment,
    ) -> Result<AuthenticQuote, TdxError> {
        let fmspc = self.facts.fmspc;
        let mut ranked: Vec<(Rank, &TdxEndorsements)> = given
            .iter()
            .filter_map(|set| TcbInfo::unauthenticated_rank(set, fmspc).map(|rank| (rank, set)))
            .collect();
        ranked.sort_by(|(one, _), (other, _)| other.cmp(one));
        let mut candidates: Vec<&TdxEndorsements> = ranked.into_iter().map(|(_, set)| set).collect();
        match (own, moment.is_past()) {
            (Some(own), true) => candidates.insert(0, own),
            (Some(own), false) => candidates.push(own),
            (None, _) => {}
        }
        let at_hand: Vec<&TdxEndorsements> = given.iter().chain(own).collect();
        self.endorse_with_first(&at_hand, &candidates, rule, moment)
    }
}
