//! What travels: `u32be(length of the rest) ‖ u64be(number) ‖ JSON`. An answer has the number of its question.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest question in bytes of JSON: a statement of 8 MiB and a signed request, in base64.
pub const MAX_REQUEST: usize = 16 << 20;
/// Longest answer in bytes of JSON: the same statement signed, base64 in base64, and the Evidence.
pub const MAX_ANSWER: usize = 32 << 20;
/// Bytes of the number.
const NUMBER: usize = 8;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number of the question.
    pub number: u64,
    /// What is said.
    pub(super) json: Vec<u8>,
}

/// Why the other side's bytes are no frame. The connection is of no use then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than allowed, or too short for its number.
    #[error("a frame announces {got} bytes, wanted {NUMBER} to {limit}")]
    Length {
        /// Bytes announced.
        got: usize,
        /// Most bytes.
        limit: usize,
    },
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Frame {
    /// A message with this number.
    ///
    /// # Panics
    /// When the message has a map whose keys are not text.
    #[must_use]
    pub fn of(number: u64, message: &impl Serialize) -> Self {
        let json = serde_json::to_vec(message).expect("messages have no maps with keys that are not text");
        Self { number, json }
    }

    /// The message; an error when it is another than `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }

    /// Writes it in one piece; an error when its JSON is longer than the `limit` that the other side reads.
    pub fn write(&self, to: &mut impl Write, limit: usize) -> io::Result<()> {
        let length = self.json.len() + NUMBER;
        let announced = u32::try_from(length).ok().filter(|_| self.json.len() <= limit).ok_or_else(|| {
            let told = format!("a message of {} bytes, at most {limit} are read", self.json.len());
            io::Error::new(io::ErrorKind::InvalidInput, told)
        })?;
        let mut bytes = Vec::with_capacity(4 + length);
        bytes.extend_from_slice(&announced.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.json);
        to.write_all(&bytes)
    }

    /// Reads one of at most `limit` bytes of JSON; `None` when the other side ended between two.
    pub fn read(from: &mut impl Read, limit: usize) -> Result<Option<Self>, FrameError> {
        let mut length = [0; 4];
        let first = loop {
            match from.read(&mut length) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        from.read_exact(&mut length[first..])?;
        let got = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if got < NUMBER || got - NUMBER > limit {
            return Err(FrameError::Length { got, limit: limit + NUMBER });
        }
        let mut number = [0; NUMBER];
        from.read_exact(&mut number)?;
        // Room grows with what comes, not with what is announced.
        let mut json = Vec::new();
        from.take((got - NUMBER) as u64).read_to_end(&mut json)?;
        if json.len() < got - NUMBER {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(Some(Self { number: u64::from_be_bytes(number), json }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: u32, rest: &[u8]) -> Vec<u8> {
        [&length.to_be_bytes()[..], rest].concat()
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let frame = Frame::of(7, &"text");
        let mut written = Vec::new();
        frame.write(&mut written, 6).expect("six bytes of JSON");
        assert_eq!(written, bytes(14, b"\0\0\0\0\0\0\0\x07\"text\""));
        assert_eq!(Frame::read(&mut written.as_slice(), 6).expect("a frame"), Some(frame));
        assert_eq!(Frame::read(&mut [].as_slice(), 6).expect("the end"), None);
    }

    #[test]
    fn lengths_are_limited_on_both_sides() {
        let error = Frame::of(7, &"text").write(&mut Vec::new(), 5).expect_err("six bytes");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        for length in [0, 7, 8 + 6, u32::MAX] {
            let read = Frame::read(&mut bytes(length, &[b'1'; 32]).as_slice(), 5);
            assert!(
                matches!(read, Err(FrameError::Length { got, limit: 13 }) if got == length as usize),
                "{length}: {read:?}"
            );
        }
    }

    #[test]
    fn a_frame_may_be_empty() {
        let read = Frame::read(&mut bytes(8, &[0; 8]).as_slice(), 5).expect("a frame");
        assert_eq!(read, Some(Frame { number: 0, json: Vec::new() }));
    }

    /// Fails once with this error, then goes on.
    struct Fails(Option<io::ErrorKind>, io::Cursor<Vec<u8>>);

    impl Read for Fails {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.take() {
                Some(kind) => Err(kind.into()),
                None => self.1.read(buffer),
            }
        }
    }

    #[test]
    fn a_signal_interrupts_no_frame_and_an_error_does() {
        let fails =
            |kind| Frame::read(&mut Fails(Some(kind), io::Cursor::new(bytes(9, b"\0\0\0\0\0\0\0\x011"))), 5);
        assert!(matches!(fails(io::ErrorKind::Interrupted), Ok(Some(Frame { number: 1, .. }))));
        let reset = fails(io::ErrorKind::ConnectionReset);
        assert!(
            matches!(&reset, Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset),
            "{reset:?}"
        );
    }

    #[test]
    fn a_frame_that_ends_early_is_an_error_at_every_length() {
        let whole = bytes(10, b"\0\0\0\0\0\0\0\x0142");
        for length in 1..whole.len() {
            let read = Frame::read(&mut &whole[..length], 100);
            assert!(
                matches!(&read, Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof),
                "{length}: {read:?}"
            );
        }
    }
}
