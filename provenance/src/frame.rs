//! Length framing for everything that is hashed or authenticated: `F(x)` is a 4-byte big-endian length
//! followed by `x`. Without it two different field splits could give the same bytes.

/// Builds framed bytes. Every use starts with a versioned label.
#[derive(Debug, Default)]
pub struct FrameWriter(Vec<u8>);

impl FrameWriter {
    /// Starts with `F(label)`.
    #[must_use]
    pub fn new(label: &str) -> Self {
        Self(Vec::new()).framed(label.as_bytes())
    }

    /// Appends `F(bytes)`.
    ///
    /// # Panics
    /// If `bytes` is 4 GiB or longer; all inputs are limited far below that when they are parsed.
    #[must_use]
    pub fn framed(mut self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("framed fields are limited to less than 4 GiB");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends bytes of a length fixed by the format, without a frame.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Why framed bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end inside a field.
    #[error("at offset {offset}: {wanted} bytes wanted, {got} left")]
    Truncated {
        /// Offset of the field, in bytes from the start.
        offset: usize,
        /// Bytes that the field needs.
        wanted: usize,
        /// Bytes that are left.
        got: usize,
    },
    /// Bytes follow the last field.
    #[error("{extra} bytes follow the last field at offset {offset}")]
    Trailing {
        /// Offset of the first extra byte.
        offset: usize,
        /// How many bytes follow.
        extra: usize,
    },
    /// The label is another one.
    #[error("label is `{got}`, wanted `{wanted}`")]
    Label {
        /// The label seen (lossy text, at most 64 characters).
        got: String,
        /// The label wanted.
        wanted: &'static str,
    },
}

/// Reads framed bytes from the front.
#[derive(Debug, Clone)]
pub struct FrameReader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> FrameReader<'a> {
    /// Reads `F(label)` and refuses any other label.
    pub fn new(bytes: &'a [u8], label: &'static str) -> Result<Self, FrameError> {
        let mut reader = Self { bytes, offset: 0 };
        let got = reader.framed()?;
        if got != label.as_bytes() {
            let got = String::from_utf8_lossy(got).chars().take(64).collect();
            return Err(FrameError::Label { got, wanted: label });
        }
        Ok(reader)
    }

    /// Offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let got = self.remaining();
        if got < length {
            return Err(FrameError::Truncated { offset: self.offset, wanted: length, got });
        }
        let taken = &self.bytes[self.offset..self.offset + length];
        self.offset += length;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, FrameError> {
        Ok(self.array::<1>()?[0])
    }

    /// The next framed field.
    pub fn framed(&mut self) -> Result<&'a [u8], FrameError> {
        let length = u32::from_be_bytes(self.array()?) as usize;
        self.take(length)
    }

    /// Refuses bytes after the last field.
    pub fn finish(self) -> Result<(), FrameError> {
        match self.remaining() {
            0 => Ok(()),
            extra => Err(FrameError::Trailing { offset: self.offset, extra }),
        }
    }
}
