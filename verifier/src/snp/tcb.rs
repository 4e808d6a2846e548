//! Products, TCB versions and their layouts (ABI specification §2.2 and Table 3; Turin: §2.2 of revision 1.57 on).

use std::fmt;

/// A CPU generation with a root key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Product {
    /// 3rd generation EPYC.
    Milan,
    /// 4th generation EPYC; also Bergamo and Siena.
    Genoa,
    /// 5th generation EPYC.
    Turin,
}

impl Product {
    /// All products.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// Lower-case name, as policies write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "milan",
            Self::Genoa => "genoa",
            Self::Turin => "turin",
        }
    }

    /// Name in AMD's certificates.
    #[must_use]
    pub const fn certificate_name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// From the family, model and stepping that reports carry from version 3 on (AMD publication 55766 and the
    /// processor programming references: 19h 00h-0Fh, 19h 10h-1Fh and A0h-AFh, 1Ah 00h-1Fh).
    #[must_use]
    pub fn from_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x1f) => Some(Self::Turin),
            _ => None,
        }
    }

    /// From the productName extension of a VCEK or VLEK: `Milan`, `Milan-B0`, …
    #[must_use]
    pub fn from_product_name(text: &str) -> Option<Self> {
        let name = text.split('-').next().unwrap_or_default();
        Self::ALL.into_iter().find(|product| product.certificate_name() == name)
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.certificate_name())
    }
}

/// Security patch levels of the parts of a TCB.
///
/// There is no ordering on the whole: a TCB is enough only when each component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tcb {
    /// FMC, on Turin only; zero elsewhere.
    pub fmc: u8,
    /// Boot loader.
    pub bootloader: u8,
    /// PSP operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

/// A reserved byte of a TCB version is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservedTcbByte {
    /// Index of the byte in the TCB version, 0 to 7.
    pub index: usize,
    /// The byte seen.
    pub got: u8,
}

impl Tcb {
    /// Reads a raw TCB version in the product's layout.
    ///
    /// Milan, Genoa: boot loader 0, TEE 1, reserved 2-5, SNP 6, microcode 7.
    /// Turin: FMC 0, boot loader 1, TEE 2, SNP 3, reserved 4-6, microcode 7.
    pub fn parse(raw: &[u8; 8], product: Product) -> Result<Self, ReservedTcbByte> {
        let (tcb, reserved) = match product {
            Product::Milan | Product::Genoa => {
                (Self { fmc: 0, bootloader: raw[0], tee: raw[1], snp: raw[6], microcode: raw[7] }, 2..6)
            }
            Product::Turin => {
                (Self { fmc: raw[0], bootloader: raw[1], tee: raw[2], snp: raw[3], microcode: raw[7] }, 4..7)
            }
        };
        match reserved.into_iter().find(|index| raw[*index] != 0) {
            Some(index) => Err(ReservedTcbByte { index, got: raw[index] }),
            None => Ok(tcb),
        }
    }

    /// The first component below `minimum`: its name, what it is, what it should at least be.
    #[must_use]
    pub fn below(&self, minimum: &Self) -> Option<(&'static str, u8, u8)> {
        self.components()
            .into_iter()
            .zip(minimum.components())
            .find_map(|((name, got), (_, wanted))| (got < wanted).then_some((name, got, wanted)))
    }

    /// Name and level of each component.
    #[must_use]
    pub fn components(&self) -> [(&'static str, u8); 5] {
        [
            ("fmc", self.fmc),
            ("bootloader", self.bootloader),
            ("tee", self.tee),
            ("snp", self.snp),
            ("microcode", self.microcode),
        ]
    }
}

impl fmt::Display for Tcb {
    /// `04.00.18.db`: boot loader, TEE, SNP, microcode in hex; with FMC first where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fmc != 0 {
            write!(f, "{:02x}.", self.fmc)?;
        }
        write!(f, "{:02x}.{:02x}.{:02x}.{:02x}", self.bootloader, self.tee, self.snp, self.microcode)
    }
}
