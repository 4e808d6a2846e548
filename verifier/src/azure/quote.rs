//! TPMS_ATTEST of a quote (TPM 2.0 Library, Part 2, §10.12), big-endian.

use super::{ALG_SHA256, ATTEST_QUOTE, AzureError, PCRS, TPM_GENERATED};

/// Reads big-endian fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], AzureError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(AzureError::QuoteLength { field })?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], AzureError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(AzureError::QuoteLength { field })?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, AzureError> {
        self.array(field).map(u16::from_be_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, AzureError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// A TPM2B: u16 length, then the bytes.
    fn sized(&mut self, field: &'static str) -> Result<&'a [u8], AzureError> {
        let length = self.u16(field)?;
        self.take(usize::from(length), field)
    }
}

/// What is read of a quote.
pub(super) struct Quote<'a> {
    pub(super) extra_data: &'a [u8],
    /// Bit n is PCR n.
    pub(super) selected: u32,
    pub(super) pcr_digest: &'a [u8],
}

/// Step 6.
pub(super) fn parse_quote(bytes: &[u8]) -> Result<Quote<'_>, AzureError> {
    let mut fields = Fields(bytes);
    let magic = fields.u32("magic")?;
    if magic != TPM_GENERATED {
        return Err(AzureError::Magic { got: magic });
    }
    let kind = fields.u16("type")?;
    if kind != ATTEST_QUOTE {
        return Err(AzureError::Type { got: kind });
    }
    fields.sized("qualifiedSigner")?;
    let extra_data = fields.sized("extraData")?;
    // clock u64, resetCount u32, restartCount u32, safe u8.
    fields.take(17, "clockInfo")?;
    fields.take(8, "firmwareVersion")?;
    let count = fields.u32("pcrSelect")?;
    if count != 1 {
        return Err(AzureError::Selection { got: format!("{count} banks") });
    }
    let bank = fields.u16("pcrSelect")?;
    let [length] = fields.array("pcrSelect")?;
    if bank != ALG_SHA256 || usize::from(length) != PCRS / 8 {
        return Err(AzureError::Selection {
            got: format!("bank {bank:#06x} of {} PCRs", 8 * u32::from(length)),
        });
    }
    let [low, middle, high] = fields.array("pcrSelect")?;
    let selected = u32::from_le_bytes([low, middle, high, 0]);
    if selected == 0 {
        return Err(AzureError::Selection { got: "no PCR".to_owned() });
    }
    let pcr_digest = fields.sized("pcrDigest")?;
    match fields.0.len() {
        0 => Ok(Quote { extra_data, selected, pcr_digest }),
        got => Err(AzureError::Trailing { got }),
    }
}
