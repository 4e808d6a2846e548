//! Faked devices at the kernel's own paths: what answers the ioctl(2) calls of the shipped code. NOT HARDWARE.
//!
//! A FUSE file stands in the place of the device. FUSE hands over the ioctl's argument; what the argument points to is
//! read from and written to the caller's memory, as a driver does it. Layouts are written down here once more, from the
//! kernel's headers, so that a mistake in the shipped ones shows.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    IoctlFlags, OpenFlags, ReplyAttr, ReplyEntry, ReplyIoctl, ReplyOpen, Request,
};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};

use super::fake_kernel::entry_attributes;

/// Answers ioctls as a driver with its firmware would. It must not start programs: a new process closes its copy of the
/// caller's file first, which waits for this very file system.
pub trait Driver: Send + 'static {
    /// One call: its number, its argument, which goes back to the caller in any case, and the caller's memory. An
    /// error is an errno.
    fn ioctl(&mut self, number: u32, argument: &mut [u8], memory: &Memory) -> Result<(), i32>;
}

/// Memory of the calling process.
pub struct Memory(File);

impl Memory {
    fn of(process: u32) -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open(format!("/proc/{process}/mem")).map(Self)
    }

    /// Bytes at an address; EFAULT where there is no memory.
    pub fn read(&self, address: u64, length: usize) -> Result<Vec<u8>, i32> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, address).map_err(|_| EFAULT)?;
        Ok(bytes)
    }

    /// Writes bytes to an address.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), i32> {
        self.0.write_all_at(bytes, address).map_err(|_| EFAULT)
    }
}

const EFAULT: i32 = 14;

/// `N` bytes of an argument.
///
/// # Panics
/// When it is shorter.
#[must_use]
pub fn bytes<const N: usize>(argument: &[u8], offset: usize) -> [u8; N] {
    argument[offset..offset + N].try_into().expect("a slice of this length")
}

/// Faked devices, mounted over `/dev` until dropped.
pub struct FakeDevices {
    _session: BackgroundSession,
}

impl FakeDevices {
    /// Puts a new `/dev` in the place of the old one, with these devices by name beside `null` and `urandom`. Only
    /// inside [`super::fake_kernel::isolated`], and after everything that needs `/dev/fuse`.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount(devices: Vec<(&'static str, Box<dyn Driver>)>) -> Self {
        let staging = PathBuf::from("/mnt");
        mount("tmpfs", &staging, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>)
            .expect("a tmpfs at /mnt");
        let (served, dev) = (staging.join("served"), staging.join("dev"));
        fs::create_dir(&served).expect("made");
        fs::create_dir(&dev).expect("made");
        let names: Vec<_> = devices.iter().map(|(name, _)| *name).collect();
        let devices = devices
            .into_iter()
            .zip(2..)
            .map(|((name, driver), inode)| (inode, Device { name, driver: Mutex::new(driver) }));
        let session = fuser::spawn_mount(Served(devices.collect()), &served, &Config::default());
        let session = session.expect("FUSE (/dev/fuse)");
        let bind = |from: &Path, name: &str| {
            fs::write(dev.join(name), b"").expect("written");
            mount_bind(from, dev.join(name)).expect("bound");
        };
        for name in ["null", "urandom"] {
            bind(&Path::new("/dev").join(name), name);
        }
        for name in names {
            bind(&served.join(name), name);
        }
        mount_bind_recursive(&dev, "/dev").expect("a new /dev");
        Self { _session: session }
    }
}

struct Device {
    name: &'static str,
    driver: Mutex<Box<dyn Driver>>,
}

/// Devices by inode.
struct Served(BTreeMap<u64, Device>);

fn attributes(inode: INodeNo) -> FileAttr {
    entry_attributes(inode, inode == INodeNo::ROOT)
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.iter().find(|(_, device)| *device.name == *name) {
            Some((inode, _)) => reply.entry(&Duration::ZERO, &attributes(INodeNo(*inode)), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn ioctl(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        number: u32,
        argument: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let (Some(device), Ok(memory)) = (self.0.get(&inode.0), Memory::of(request.pid())) else {
            return reply.error(Errno::EIO);
        };
        let mut argument = argument.to_vec();
        let mut driver = device.driver.lock().expect("no panic under the lock");
        let result = driver.ioctl(number, &mut argument, &memory);
        // With a negative result the argument still goes back.
        reply.ioctl(result.err().map_or(0, |errno| -errno), &argument);
    }
}
