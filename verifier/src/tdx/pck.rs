//! What Intel puts into a PCK certificate: the SGX extension 1.2.840.113741.1.13.1 (Intel SGX PCK Certificate and
//! Certificate Revocation List Profile Specification, §1.3.5).

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Reader, SliceReader, Tag, Tagged};

use super::TdxError;
use crate::x509::Certificate;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const SGX_EXTENSIONS: ObjectIdentifier = oid("1.2.840.113741.1.13.1");
const PPID: ObjectIdentifier = oid("1.2.840.113741.1.13.1.1");
const TCB: ObjectIdentifier = oid("1.2.840.113741.1.13.1.2");
const PCESVN: ObjectIdentifier = oid("1.2.840.113741.1.13.1.2.17");
const CPUSVN: ObjectIdentifier = oid("1.2.840.113741.1.13.1.2.18");
const PCEID: ObjectIdentifier = oid("1.2.840.113741.1.13.1.3");
const FMSPC: ObjectIdentifier = oid("1.2.840.113741.1.13.1.4");
const SGX_TYPE: ObjectIdentifier = oid("1.2.840.113741.1.13.1.5");
const PLATFORM_INSTANCE_ID: ObjectIdentifier = oid("1.2.840.113741.1.13.1.6");
const CONFIGURATION: ObjectIdentifier = oid("1.2.840.113741.1.13.1.7");
const DYNAMIC_PLATFORM: ObjectIdentifier = oid("1.2.840.113741.1.13.1.7.1");
const CACHED_KEYS: ObjectIdentifier = oid("1.2.840.113741.1.13.1.7.2");
const SMT_ENABLED: ObjectIdentifier = oid("1.2.840.113741.1.13.1.7.3");
/// SGX TCB components 1 to 16.
const COMPONENTS: [ObjectIdentifier; 16] = [
    oid("1.2.840.113741.1.13.1.2.1"),
    oid("1.2.840.113741.1.13.1.2.2"),
    oid("1.2.840.113741.1.13.1.2.3"),
    oid("1.2.840.113741.1.13.1.2.4"),
    oid("1.2.840.113741.1.13.1.2.5"),
    oid("1.2.840.113741.1.13.1.2.6"),
    oid("1.2.840.113741.1.13.1.2.7"),
    oid("1.2.840.113741.1.13.1.2.8"),
    oid("1.2.840.113741.1.13.1.2.9"),
    oid("1.2.840.113741.1.13.1.2.10"),
    oid("1.2.840.113741.1.13.1.2.11"),
    oid("1.2.840.113741.1.13.1.2.12"),
    oid("1.2.840.113741.1.13.1.2.13"),
    oid("1.2.840.113741.1.13.1.2.14"),
    oid("1.2.840.113741.1.13.1.2.15"),
    oid("1.2.840.113741.1.13.1.2.16"),
];

/// Facts of a PCK certificate: which platform it is of, and at which TCB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PckFacts {
    /// Family, model, stepping, platform type and custom SKU: selects the TCB info.
    pub fmspc: [u8; 6],
    /// Id of the Provisioning Certification Enclave.
    pub pceid: [u8; 2],
    /// SVN of the Provisioning Certification Enclave.
    pub pcesvn: u16,
    /// SGX TCB component SVNs.
    pub components: [u8; 16],
    /// CPUSVN, raw.
    pub cpusvn: [u8; 16],
    /// Configuration flags of a multi-package platform; absent from certificates of the Processor CA.
    pub configuration: Option<PlatformConfiguration>,
}

/// Configuration flags of a platform, as the PCK certificate states them. They are reported, not judged: every
/// genuine platform seen sets the first and the third.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformConfiguration {
    /// Packages may be added to the running platform.
    pub dynamic_platform: bool,
    /// Intel's registration service has the platform's keys.
    pub cached_keys: bool,
    /// Simultaneous multithreading is on.
    pub smt_enabled: bool,
}

/// `SEQUENCE OF SEQUENCE { id, value }` with each id at most once.
struct Table<'a>(Vec<(ObjectIdentifier, AnyRef<'a>)>);

impl<'a> Table<'a> {
    fn read(name: &'static str, list: AnyRef<'a>) -> Result<Self, TdxError> {
        if list.tag() != Tag::Sequence {
            return Err(malformed(name));
        }
        Self::entries(list.value()).map_err(|_| malformed(name))
    }

    fn entries(contents: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(contents)?;
        let mut entries: Vec<(ObjectIdentifier, AnyRef<'a>)> = Vec::new();
        while !reader.is_finished() {
            let entry = AnyRef::decode(&mut reader)?;
            entry.tag().assert_eq(Tag::Sequence)?;
            let mut fields = SliceReader::new(entry.value())?;
            let id = ObjectIdentifier::decode(&mut fields)?;
            let value = AnyRef::decode(&mut fields)?;
            fields.finish()?;
            if entries.iter().any(|(known, _)| *known == id) || entries.len() == 32 {
                return Err(Tag::Sequence.value_error().into());
            }
            entries.push((id, value));
        }
        Ok(Self(entries))
    }

    fn take(&mut self, id: &ObjectIdentifier) -> Option<AnyRef<'a>> {
        let at = self.0.iter().position(|(known, _)| known == id)?;
        Some(self.0.swap_remove(at).1)
    }

    fn required(&mut self, name: &'static str, id: &ObjectIdentifier) -> Result<AnyRef<'a>, TdxError> {
        self.take(id).ok_or(TdxError::PckExtension { name, problem: "missing" })
    }

    fn bytes<const N: usize>(
        &mut self,
        name: &'static str,
        id: &ObjectIdentifier,
    ) -> Result<[u8; N], TdxError> {
        let value = self.required(name, id)?;
        if value.tag() != Tag::OctetString {
            return Err(malformed(name));
        }
        value.value().try_into().map_err(|_| malformed(name))
    }

    fn finish(self, name: &'static str) -> Result<(), TdxError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(TdxError::PckExtension { name, problem: "with an unknown entry" })
        }
    }
}

fn malformed(name: &'static str) -> TdxError {
    TdxError::PckExtension { name, problem: "malformed" }
}

/// Reads the extension. The certificate must have been authenticated before.
pub(super) fn facts(certificate: &Certificate<'_>) -> Result<PckFacts, TdxError> {
    let name = "SGX extensions";
    let der =
        certificate.extension(&SGX_EXTENSIONS).ok_or(TdxError::PckExtension { name, problem: "missing" })?;
    let mut table = Table::read(name, AnyRef::from_der(der).map_err(|_| malformed(name))?)?;
    table.bytes::<16>("PPID", &PPID)?;
    let tcb = table.required("TCB", &TCB)?;
    let (components, pcesvn, cpusvn) = tcb_facts(tcb)?;
    let pceid = table.bytes("PCEID", &PCEID)?;
    let fmspc = table.bytes("FMSPC", &FMSPC)?;
    // 0 standard, 1 scalable, 2 scalable with integrity.
    let sgx_type = table.required("SGX type", &SGX_TYPE)?;
    if sgx_type.tag() != Tag::Enumerated || !matches!(sgx_type.value(), [0..=2]) {
        return Err(malformed("SGX type"));
    }
    if let Some(instance) = table.take(&PLATFORM_INSTANCE_ID)
        && (instance.tag() != Tag::OctetString || instance.value().len() != 16)
    {
        return Err(malformed("platform instance id"));
    }
    let configuration = table.take(&CONFIGURATION).map(configuration).transpose()?;
    table.finish(name)?;
    Ok(PckFacts { fmspc, pceid, pcesvn, components, cpusvn, configuration })
}

fn tcb_facts(value: AnyRef<'_>) -> Result<([u8; 16], u16, [u8; 16]), TdxError> {
    let mut table = Table::read("TCB", value)?;
    let mut components = [0; 16];
    for (component, id) in components.iter_mut().zip(&COMPONENTS) {
        let name = "TCB component";
        *component = table.required(name, id)?.decode_as().map_err(|_| malformed(name))?;
    }
    let pcesvn = table.required("PCESVN", &PCESVN)?.decode_as().map_err(|_| malformed("PCESVN"))?;
    let cpusvn = table.bytes("CPUSVN", &CPUSVN)?;
    table.finish("TCB")?;
    Ok((components, pcesvn, cpusvn))
}

fn configuration(value: AnyRef<'_>) -> Result<PlatformConfiguration, TdxError> {
    let name = "configuration";
    let mut table = Table::read(name, value)?;
    let mut flag =
        |id| table.take(id).map_or(Ok(false), |value| value.decode_as().map_err(|_| malformed(name)));
    let configuration = PlatformConfiguration {
        dynamic_platform: flag(&DYNAMIC_PLATFORM)?,
        cached_keys: flag(&CACHED_KEYS)?,
        smt_enabled: flag(&SMT_ENABLED)?,
    };
    table.finish(name)?;
    Ok(configuration)
}
