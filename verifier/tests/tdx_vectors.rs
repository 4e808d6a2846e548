//! What is particular to single quotes recorded from real Intel hardware. That each is answered as stated is in
//! `vectors.rs`.
//!
//! The vectors are not part of the repository. `SEALWRIGHT_VECTORS` names their directory, by default
//! `../shared/vectors` beside the repository. Without them the tests are skipped with a message, but fail in CI.

mod tdx_support;

use tdx_support::{judge, vectors};
use verifier::Reason;
use verifier::evidence::AuthenticationError;
use verifier::tdx::{Quote, TdxError};

/// Without the 39 bytes that somebody added to it, the quote is refused for the same reason: nothing about its
/// platform depends on them.
#[test]
fn the_added_bytes_of_the_sapphire_rapids_quote_are_not_what_decides() {
    let Some(dir) = vectors() else { return };
    let case = tdx_support::case(&dir, "tdx-v4-spr-no-tcb-level");
    let mut evidence = case.evidence(&dir);
    let quote = Quote::parse(&evidence.report).expect("well formed");
    let end = quote.chain_range().1;
    assert!(evidence.report.len() > end, "something is added");
    evidence.report.truncate(end);
    let reason = judge(&evidence, &case.policy().parse(), case.now()).expect_err("refused");
    assert!(
        matches!(reason, Reason::Authentication(AuthenticationError::Tdx(TdxError::NoTcbLevel { .. }))),
        "{reason:?}"
    );
}
