//! Parsers of outside bytes that are private to this crate, for the fuzz targets of `tests/fuzz`. Not part of the crate
//! that ships. Each answers whether the bytes are accepted, and panics when what was read is not what stood there.

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};

use crate::own_report;

/// What build-server sends over one connection: the inputs of the instance, then questions.
#[must_use]
pub fn key_process_frames(bytes: &[u8]) -> bool {
    crate::process::read_questions(bytes)
}

/// A sealed file. Under the root of the committed vectors only the files of these open.
#[must_use]
pub fn sealed_epoch(bytes: &[u8]) -> bool {
    crate::sealing::read_sealed_file(bytes)
}

/// The files of the committed vectors, to begin with.
#[must_use]
pub fn sealed_epoch_seeds() -> Vec<Vec<u8>> {
    crate::sealing::sealed_files()
}

/// What the device gives when it is asked for a report or a quote over 64 bytes of `0x5a`.
#[must_use]
pub fn own_report(bytes: &[u8]) -> bool {
    let asked = ReportData([0x5a; 64]);
    [Platform::SevSnp, Platform::Tdx].into_iter().any(|platform| {
        let evidence = Evidence { platform, report: bytes.to_vec(), endorsements: vec![] };
        own_report::read(platform, &evidence, &asked).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nothing_at_all_is_refused_by_each_and_the_vectors_open() {
        for bytes in [&b"\x01"[..], b"{}", &[0x30; 64]] {
            assert!(!key_process_frames(bytes) && !sealed_epoch(bytes) && !own_report(bytes));
        }
        let files = sealed_epoch_seeds();
        assert!(!files.is_empty() && files.iter().all(|file| sealed_epoch(file)));
    }
}
