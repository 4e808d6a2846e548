//! The two TEE devices that are asked by ioctl(2): `/dev/sev-guest` ([`sev_guest`]) and `/dev/uv` ([`uv`]).
//!
//! A [`Call`] holds everything that one ioctl reads and writes, as bytes at the offsets of the kernel's headers. It goes
//! through an [`IoctlCall`]: the shipped one is the kernel, another stands in its place in tests, where everything
//! above it runs unchanged.

pub mod sev_guest;
pub mod uv;

use std::io;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

/// How often a device that is busy is asked. The driver of SEV-SNP itself waits for a throttling host for 60 seconds.
pub(crate) const BUSY_ATTEMPTS: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Goes round for each attempt, with a pause before all but the first.
pub(crate) fn attempts() -> impl Iterator<Item = ()> {
    (0..BUSY_ATTEMPTS).map(|attempt| {
        if attempt > 0 {
            std::thread::sleep(BUSY_PAUSE);
        }
    })
}

/// Place of a block of memory in a [`Call`]; 0 is the ioctl's argument.
pub type BlockIndex = usize;

/// A pointer that one block holds to another.
struct Pointer {
    holder: BlockIndex,
    offset: usize,
    target: BlockIndex,
}

/// One ioctl: its number, its argument, and the memory that the argument points to. All blocks are zeroised when
/// dropped, since a derived key or a secret may come back in one. No `Debug`, so that none of it is logged.
pub struct Call {
    number: u32,
    blocks: Vec<Zeroizing<Vec<u8>>>,
    pointers: Vec<Pointer>,
}

impl Call {
    /// A call with this argument as block 0.
    ///
    /// Whoever makes one keeps this promise, on which the kernel relies: every length that the number or a field of a
    /// block states is the length of the block it is about.
    fn new(number: u32, argument: Vec<u8>) -> Self {
        assert_eq!(
            usize::from(size_of_number(number)),
            argument.len(),
            "the number states the argument's size"
        );
        Self { number, blocks: vec![Zeroizing::new(argument)], pointers: Vec::new() }
    }

    /// Adds a block, to which `holder` points at `offset` (8 bytes, the machine's order).
    fn attach(&mut self, holder: BlockIndex, offset: usize, bytes: Vec<u8>) -> BlockIndex {
        assert!(offset + 8 <= self.blocks[holder].len(), "a pointer lies within its block");
        let target = self.blocks.len();
        self.blocks.push(Zeroizing::new(bytes));
        self.pointers.push(Pointer { holder, offset, target });
        target
    }

    /// The ioctl's number, with direction and size of the argument (Linux `asm-generic/ioctl.h`).
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// A block. Its pointers are zero unless the kernel has been called.
    ///
    /// # Panics
    /// When there is no such block.
    #[must_use]
    pub fn block(&self, index: BlockIndex) -> &[u8] {
        &self.blocks[index]
    }

    /// A block to be answered in. Its length is fixed.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn block_mut(&mut self, index: BlockIndex) -> &mut [u8] {
        &mut self.blocks[index]
    }

    /// The block that `holder` points to at `offset`, if it points to one there.
    #[must_use]
    pub fn target(&self, holder: BlockIndex, offset: usize) -> Option<BlockIndex> {
        let mut pointers = self.pointers.iter();
        pointers.find(|p| p.holder == holder && p.offset == offset).map(|p| p.target)
    }

    /// Copies bytes out of a block.
    fn field<const N: usize>(&self, index: BlockIndex, offset: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.blocks[index][offset..offset + N]);
        out
    }
}

/// Performs an ioctl on a device.
pub trait IoctlCall: Send + Sync {
    /// Performs `call`; blocks are answered in place. An error is the kernel's errno ([`io::Error::raw_os_error`]),
    /// and the argument may have been answered all the same.
    fn perform(&self, call: &mut Call) -> io::Result<()>;
}

/// Read and write, a type letter, a number and the argument's size (Linux `asm-generic/ioctl.h`, `_IOWR`).
const fn read_write_number(kind: u8, number: u8, size: usize) -> u32 {
    assert!(size < 1 << 14, "the size has 14 bits");
    (3 << 30) | ((size as u32) << 16) | ((kind as u32) << 8) | number as u32
}

fn size_of_number(number: u32) -> u16 {
    u16::try_from((number >> 16) & 0x3fff).expect("14 bits")
}

/// A device of the kernel, open until dropped.
pub(crate) struct KernelDevice(std::fs::File);

impl KernelDevice {
    /// Opens the device for reading and writing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        std::fs::OpenOptions::new().read(true).write(true).open(path).map(Self)
    }
}

#[expect(unsafe_code, reason = "ioctl(2) takes an address, and no safe function offers these calls")]
mod kernel {
    use std::io;
    use std::os::fd::AsRawFd as _;

    use super::{Call, IoctlCall, KernelDevice};

    impl IoctlCall for KernelDevice {
        fn perform(&self, call: &mut Call) -> io::Result<()> {
            let addresses: Vec<u64> =
                call.blocks.iter_mut().map(|block| block.as_mut_ptr().expose_provenance() as u64).collect();
            for pointer in &call.pointers {
                call.blocks[pointer.holder][pointer.offset..pointer.offset + 8]
                    .copy_from_slice(&addresses[pointer.target].to_ne_bytes());
            }
            // SAFETY: the kernel reads and writes as many bytes at the argument as the number's size field states, and
            // at each address in it as the lengths beside it state. `Call::new` obliges its callers, the functions of
            // `sev_guest` and `uv`, to make blocks of just those lengths; tests compare numbers and offsets with the
            // kernel's headers. `call` is borrowed exclusively, so nothing else uses or moves the blocks meanwhile,
            // and the kernel keeps no address after it returns.
            let result =
                unsafe { libc::ioctl(self.0.as_raw_fd(), call.number as _, call.blocks[0].as_mut_ptr()) };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
