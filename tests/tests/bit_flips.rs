//! Single bits flipped over the whole Evidence of each platform: report, quote or answer, and endorsements. Each flip is
//! refused, or `tests/refusals/harmless-bits.txt` says by offset why it does no harm.
//!
//! Every bit of report, quote and answer is flipped; of endorsements and of recorded reports and quotes one bit of each
//! byte, a different one from byte to byte. With `SEALWRIGHT_EVERY_BIT=1` it is every bit there too, and the endorsements of
//! recorded Evidence are flipped as well (half an hour). NOT HARDWARE but for the recorded Evidence, which needs the vectors.

#[path = "verifier_support/good.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod good;
#[path = "verifier_support/secure_execution.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod setting;
#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use std::collections::BTreeSet;
use std::ops::Range;

use good::Good;
use provenance::evidence::Evidence;
use provenance::timestamp::Timestamp;
use sealwright_tests::vectors;
use verifier::Endorsements;
use verifier::evidence::authenticate_with_grounds;
use verifier::reliance::Grounds;
use verifier::secure_execution::{
    ExchangeResponse, OwnRequest, ProtectionKey, dangerous_authenticate_with_unchecked_host_keys,
};
use world::now;

/// Bits that are flipped of each byte.
#[derive(Clone, Copy, PartialEq)]
enum Bits {
    Every,
    OnePerByte,
}

fn every_bit() -> bool {
    std::env::var_os("SEALWRIGHT_EVERY_BIT").is_some()
}

impl Bits {
    /// One of each byte, or every one if that is asked for.
    fn sample() -> Self {
        if every_bit() { Self::Every } else { Self::OnePerByte }
    }

    fn of(self, offset: usize) -> Range<usize> {
        match self {
            Self::Every => 0..8,
            // 5 is prime to 8, so that neighbours in records of even length do not share a bit.
            Self::OnePerByte => offset * 5 % 8..offset * 5 % 8 + 1,
        }
    }
}

/// Offsets of the bytes of which some flip was accepted, and how many flips there were. `accepts` judges in two threads.
fn accepted(bytes: &[u8], bits: Bits, accepts: impl Fn(&[u8]) -> bool + Sync) -> (Vec<usize>, usize) {
    assert!(accepts(bytes), "the untouched bytes are good");
    let half = |range: Range<usize>| {
        let mut altered = bytes.to_vec();
        let (mut found, mut flips) = (Vec::new(), 0);
        for offset in range {
            let mut any = false;
            for bit in bits.of(offset) {
                altered[offset] ^= 1 << bit;
                any |= accepts(&altered);
                altered[offset] ^= 1 << bit;
                flips += 1;
            }
            found.extend(any.then_some(offset));
        }
        (found, flips)
    };
    let middle = bytes.len() / 2;
    std::thread::scope(|scope| {
        let second = scope.spawn(|| half(middle..bytes.len()));
        let (mut found, flips) = half(0..middle);
        let (rest, more) = second.join().expect("judged");
        found.extend(rest);
        (found, flips + more)
    })
}

/// A line of the list.
struct Harmless {
    what: String,
    part: String,
    bytes: Range<usize>,
}

fn harmless() -> Vec<Harmless> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let what = words.next().filter(|word| !word.starts_with('#'))?.to_owned();
        let part = words.next().expect("a part").to_owned();
        let (from, to) = words.next().and_then(|range| range.split_once("..")).expect("a range");
        let offset =
            |text: &str| usize::from_str_radix(text.strip_prefix("0x").expect("hex"), 16).expect("an offset");
        assert!(words.next().is_some(), "a reason: {line}");
        Some(Harmless { what, part, bytes: offset(from)..offset(to) })
    };
    include_str!("../refusals/harmless-bits.txt").lines().filter_map(line).collect()
}

/// Demands that what was accepted is what the list has about it, no less and no more.
fn compare(what: &str, part: &str, found: &(Vec<usize>, usize)) {
    let (accepted, flips) = found;
    let list: Vec<_> = harmless().into_iter().filter(|line| line.what == what && line.part == part).collect();
    let unlisted: Vec<String> = accepted
        .iter()
        .filter(|offset| !list.iter().any(|line| line.bytes.contains(offset)))
        .map(|offset| format!("{offset:#x}"))
        .collect();
    assert!(unlisted.is_empty(), "{what} {part}: altered and still accepted: {}", unlisted.join(" "));
    for line in list {
        let any = accepted.iter().any(|offset| line.bytes.contains(offset));
        assert!(any, "{what} {part}: no bit of {:#x?} is accepted", line.bytes);
    }
    eprintln!("{what} {part}: {flips} flips, {} bytes harmless", accepted.len());
}

/// Flips bits of a report, a quote or an answer.
fn flip_report(what: &str, evidence: &Evidence, bits: Bits, accepts: impl Fn(&Evidence) -> bool + Sync) {
    let of_report = accepted(&evidence.report, bits, |bytes| {
        accepts(&Evidence { report: bytes.to_vec(), ..evidence.clone() })
    });
    compare(what, "evidence", &of_report);
}

/// Flips bits of endorsements.
fn flip_endorsements(what: &str, evidence: &Evidence, accepts: impl Fn(&Evidence) -> bool + Sync) {
    let of_endorsements = accepted(&evidence.endorsements, Bits::sample(), |bytes| {
        accepts(&Evidence { endorsements: bytes.to_vec(), ..evidence.clone() })
    });
    compare(what, "endorsements", &of_endorsements);
}

fn flip_good(what: &str, good: &Good) {
    let policy = good.made.parsed_policy();
    let (none, now) = (Endorsements::default(), now());
    let accepts = |evidence: &Evidence| {
        let grounds = Grounds { own_requests: &good.own, ..Grounds::default() };
        authenticate_with_grounds(evidence, &none, grounds, policy.anchors(), now).is_ok()
    };
    let evidence = &good.made.bundle.evidence;
    flip_report(what, evidence, Bits::Every, accepts);
    flip_endorsements(what, evidence, accepts);
}

#[test]
fn no_bit_of_a_sev_snp_report_or_of_its_certificates_can_be_flipped() {
    let [milan, _] = good::snp();
    flip_good("snp", &milan);
}

#[test]
fn no_bit_of_a_tdx_quote_or_of_its_endorsements_can_be_flipped() {
    let [good, _] = good::tdx();
    flip_good("tdx", &good);
}

#[test]
fn of_secure_execution_only_bits_that_say_nothing_can_be_flipped() {
    let [good, _] = good::secure_execution();
    flip_good("se", &good);
}

#[test]
fn no_bit_of_recorded_evidence_can_be_flipped() {
    let Some(folder) = vectors::folder() else { return };
    let mut seen = BTreeSet::new();
    for case in vectors::prepare(&folder).expect("cases") {
        // Some cases are about the same report at another time.
        if case.judge().is_err() || !seen.insert(case.evidence.report.clone()) {
            continue;
        }
        let none = Endorsements::default();
        let accepts = |evidence: &Evidence| {
            verifier::authenticate(evidence, &none, case.policy.anchors(), case.now).is_ok()
        };
        flip_report(&case.id, &case.evidence, Bits::sample(), accepts);
        if every_bit() {
            flip_endorsements(&case.id, &case.evidence, accepts);
        }
    }
    assert!(seen.len() >= 12, "only {} good reports and quotes", seen.len());
}

#[test]
fn no_measured_bit_of_a_recorded_answer_can_be_flipped() {
    let Some(folder) = vectors::folder() else { return };
    let read = |name: &str| std::fs::read(folder.join("se/z16").join(name)).expect("a recorded file");
    let (response, header) = (read("response.bin"), read("se_header.bin"));
    let key = ProtectionKey::new(read("arpk.bin").try_into().expect("32 bytes"));
    let request = ExchangeResponse::parse(&response).expect("an answer").request().to_vec();
    let own = OwnRequest::open(&request, &key).expect("the key opens it");
    let now = Timestamp::parse("2026-07-01T00:00:00Z").expect("a time");
    let document = pem(&read("hkd.crt"));
    let judge = |response: &[u8], header: &[u8]| {
        let documents = std::slice::from_ref(&document);
        dangerous_authenticate_with_unchecked_host_keys(response, header, &own, documents, now).is_ok()
    };
    compare("z16", "response", &accepted(&response, Bits::Every, |bytes| judge(bytes, &header)));
    compare("z16", "header", &accepted(&header, Bits::Every, |bytes| judge(&response, bytes)));
}

/// The DER of a single certificate.
fn pem(text: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = std::str::from_utf8(text).expect("text");
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD.decode(body).expect("base64")
}
