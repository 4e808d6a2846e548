//! What Intel says about the platform of a quote: choosing among the endorsements at hand, and believing every
//! revocation list among them. Steps 9 to 14 of the list in the module above.

use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;

use super::collateral::{QeIdentity, Rank, Signer, TcbInfo, TrustedRoot};
use super::{AuthenticQuote, CertificateName, CrlName, Document, SignedQuote, TdxError, parse, tcb};
use crate::roots::Revocation;
use crate::time::Moment;
use crate::x509::{Certificate, CertificateError, RevocationList};

/// The PCK chain of a quote, parsed.
struct Chain<'a> {
    pck: Certificate<'a>,
    ca: Certificate<'a>,
    root: Certificate<'a>,
}

/// The list of one issuer in each set at hand, whatever its age, or why it is none.
pub(super) struct IssuerLists<'a>(Vec<(&'a TdxEndorsements, Result<RevocationList, CertificateError>)>);

/// The lists of both issuers.
struct Lists<'a> {
    root: IssuerLists<'a>,
    pck_ca: IssuerLists<'a>,
}

impl<'a> IssuerLists<'a> {
    fn authenticate(
        at_hand: &[&'a TdxEndorsements],
        list: fn(&TdxEndorsements) -> &[u8],
        issuer: &Certificate<'_>,
    ) -> Self {
        Self(at_hand.iter().map(|set| (*set, RevocationList::authenticate(list(set), issuer))).collect())
    }

    /// Those that the issuer signed. What is signed by others is of another platform, or of no use: the chosen
    /// endorsements are judged strictly.
    fn authentic(&self) -> impl Iterator<Item = &RevocationList> {
        self.0.iter().filter_map(|(_, list)| list.as_ref().ok())
    }

    /// Whether one of them lists this certificate.
    pub(super) fn revokes(&self, certificate: &Certificate<'_>) -> bool {
        self.authentic().any(|list| list.lists(certificate))
    }

    /// Checks that the list of this set, which is one at hand, is authentic and current.
    fn check_fresh(&self, of: &TdxEndorsements, now: Timestamp) -> Result<(), CertificateError> {
        let list = self.0.iter().find(|(set, _)| std::ptr::eq(*set, of)).map(|(_, list)| list);
        list.expect("candidates are at hand").as_ref().map_err(Clone::clone)?.check_fresh(now)
    }
}

/// Intel's signed word on one platform.
struct Word {
    info: TcbInfo,
    identity: QeIdentity,
}

impl Chain<'_> {
    fn lists_of<'a>(&self, at_hand: &[&'a TdxEndorsements]) -> Lists<'a> {
        Lists {
            root: IssuerLists::authenticate(at_hand, |set| &set.root_ca_crl, &self.root),
            pck_ca: IssuerLists::authenticate(at_hand, |set| &set.pck_crl, &self.ca),
        }
    }

    fn check_revocation(&self, lists: &Lists<'_>) -> Result<(), TdxError> {
        for (lists, certificate, which) in [
            (&lists.root, &self.ca, CertificateName::PckCa),
            (&lists.pck_ca, &self.pck, CertificateName::Pck),
        ] {
            if lists.revokes(certificate) {
                return Err(TdxError::Revoked { which });
            }
        }
        Ok(())
    }
}

impl Lists<'_> {
    /// Checks that one list of each issuer is current; `missing` where there is none.
    fn check_current(&self, today: Timestamp, missing: &TdxError) -> Result<(), TdxError> {
        for (which, lists) in [(CrlName::Root, &self.root), (CrlName::PckCa, &self.pck_ca)] {
            let mut current = Err(missing.clone());
            for list in lists.authentic() {
                if current.is_err() {
                    current = list.check_fresh(today).map_err(|error| TdxError::Crl { which, error });
                }
            }
            current?;
        }
        Ok(())
    }
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
        lists: &Lists<'_>,
        now: Timestamp,
    ) -> Result<Word, TdxError> {
        // Step 9.
        for (which, lists) in [(CrlName::Root, &lists.root), (CrlName::PckCa, &lists.pck_ca)] {
            lists.check_fresh(endorsements, now).map_err(|error| TdxError::Crl { which, error })?;
        }

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
    /// current today, too. `candidates` are references out of `at_hand`.
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
