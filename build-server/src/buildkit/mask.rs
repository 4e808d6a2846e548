//! Secrets taken out of what people get to see.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::secrets::SecretValues;

/// What stands in place of a secret.
const MASK: &[u8] = b"***";
/// Shortest line of a secret that is masked by itself, in bytes.
const MIN_LINE: usize = 4;

/// The values to be masked: each secret, and each of its lines of [`MIN_LINE`] bytes or more.
pub(super) struct Masks {
    /// By first byte, longest first.
    by_first: HashMap<u8, Vec<Zeroizing<Vec<u8>>>>,
}

impl Masks {
    pub(super) fn new(secrets: &SecretValues) -> Arc<Self> {
        let mut by_first: HashMap<u8, Vec<Zeroizing<Vec<u8>>>> = HashMap::new();
        let mut add = |value: &[u8]| {
            // White space alone is no secret, and masking it would make every log unreadable.
            let Some(first) = value.first().filter(|_| !value.trim_ascii().is_empty()) else { return };
            let same = by_first.entry(*first).or_default();
            if !same.iter().any(|known| known.as_slice() == value) {
                same.push(Zeroizing::new(value.to_vec()));
            }
        };
        for (_, value) in secrets.iter() {
            // A newline at the end is no secret; masked with the rest, it would join the next line to this one.
            add(value.trim_ascii_end());
            add(value.trim_ascii());
            for line in
                value.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| line.len() >= MIN_LINE)
            {
                add(line);
            }
        }
        for same in by_first.values_mut() {
            same.sort_by_key(|value| std::cmp::Reverse(value.len()));
        }
        Arc::new(Self { by_first })
    }

    /// A whole text, masked.
    pub(super) fn text(&self, text: &str) -> String {
        let mut out = Vec::with_capacity(text.len());
        self.scan(text.as_bytes(), true, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Masks `input` into `out`; gives how many bytes were dealt with. Unless `last`, stops where a secret may
    /// have begun whose rest has not come yet.
    fn scan(&self, input: &[u8], last: bool, out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            let candidates = self.by_first.get(&rest[0]).map_or(&[][..], Vec::as_slice);
            let mut masked = None;
            for value in candidates {
                if rest.starts_with(value) {
                    masked = Some(value.len());
                    break;
                }
                // Longest first: a longer secret that may still come hides the shorter one in it as well.
                if !last && value.starts_with(rest) {
                    return at;
                }
            }
            match masked {
                Some(length) => {
                    out.extend_from_slice(MASK);
                    at += length;
                }
                None => {
                    out.push(rest[0]);
                    at += 1;
                }
            }
        }
        at
    }
}

/// Masks one stream of output that comes in pieces.
pub(super) struct StreamMask {
    masks: Arc<Masks>,
    held: Zeroizing<Vec<u8>>,
}

impl StreamMask {
    pub(super) fn new(masks: Arc<Masks>) -> Self {
        Self { masks, held: Zeroizing::default() }
    }

    /// What of the stream can be shown after this piece.
    pub(super) fn push(&mut self, piece: &[u8]) -> Bytes {
        if self.masks.by_first.is_empty() {
            return Bytes::copy_from_slice(piece);
        }
        self.held.extend_from_slice(piece);
        let mut out = Vec::with_capacity(self.held.len());
        let done = self.masks.scan(&self.held, false, &mut out);
        self.held.drain(..done);
        out.into()
    }

    /// What is left at the end of the stream.
    pub(super) fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        self.masks.scan(&self.held, true, &mut out);
        self.held.clear();
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(values: &[&[u8]]) -> Arc<Masks> {
        let values: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(i, v)| (format!("s{i:03}"), Zeroizing::new(v.to_vec())))
            .collect();
        let plain = values.iter().map(|(id, v)| (id.clone(), v.to_vec())).collect();
        let commitment = provenance::request::SecretsCommitment {
            commitment: provenance::commitment::commit_to_secrets(&[7; 32], &plain),
            ids: values.iter().map(|(id, _)| id.clone()).collect(),
        };
        let secrets = SecretValues::new(Some(&commitment), &[7; 32], values).expect("committed");
        Masks::new(&secrets)
    }

    fn in_pieces(masks: &Arc<Masks>, text: &[u8], size: usize) -> Vec<u8> {
        let mut stream = StreamMask::new(masks.clone());
        let mut out: Vec<u8> = text.chunks(size).flat_map(|piece| stream.push(piece).to_vec()).collect();
        out.extend(stream.finish());
        out
    }

    #[test]
    fn a_secret_is_masked_wherever_the_stream_is_cut() {
        let masks = masks(&[b"hunter2hunter3", b"line one\nxy\nline three\n"]);
        let text = b"a hunter2hunter3 b hunter2hunterX line three, xy, line one\nxy\nline three\nend hunter2";
        let wanted: &[u8] = b"a *** b hunter2hunterX ***, xy, ***\nend hunter2";
        for size in 1..=text.len() {
            assert_eq!(in_pieces(&masks, text, size), wanted, "pieces of {size}");
        }
        assert_eq!(masks.text("hunter2hunter3"), "***");
    }

    #[test]
    fn the_longest_secret_wins_and_short_ones_inside_do_not_end_it() {
        let masks = masks(&[b"abcd", b"abcdefgh"]);
        for size in 1..=12 {
            assert_eq!(in_pieces(&masks, b"xabcdefghy", size), b"x***y");
            assert_eq!(in_pieces(&masks, b"xabcdefg", size), b"x***efg");
        }
    }

    #[test]
    fn white_space_is_no_secret() {
        assert_eq!(in_pieces(&masks(&[b" \n"]), b"a \nb", 2), b"a \nb");
    }
}
