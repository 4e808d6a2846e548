//! Build contexts of known size and with contents that no cache has seen.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Files of the large tree, and bytes of each.
pub(crate) const FILES: usize = 20_000;
const FILE_BYTES: usize = 2 << 10;
const FILES_PER_DIRECTORY: usize = 100;

/// A reproducible stream of bytes that does not compress (xorshift64*).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state that stays as it is.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A seed that no earlier run had.
    pub(crate) fn fresh() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self::new(now.as_nanos() as u64)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let value = self.next().to_le_bytes();
            piece.copy_from_slice(&value[..piece.len()]);
        }
    }

    /// Digits: what gzip halves.
    fn fill_digits(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(16) {
            let mut value = self.next();
            for byte in piece {
                *byte = b"0123456789abcdef"[(value & 15) as usize];
                value >>= 4;
            }
        }
    }
}

fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())
}

/// A small program, a RUN step, a few files.
pub(crate) fn small(directory: &Path) -> Result<()> {
    empty(directory)?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
    fs::copy(
        busybox.context("busybox-static is not installed; run make prerequisites")?,
        directory.join("busybox"),
    )?;
    for number in 0..20 {
        fs::write(directory.join(format!("page-{number}.txt")), format!("page {number}\n"))?;
    }
    let dockerfile = "FROM scratch AS build\n\
         COPY busybox /bin/busybox\n\
         RUN [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox uname -m > /machine\"]\n\
         FROM scratch\n\
         ARG GREETING=hello\n\
         LABEL greeting=$GREETING\n\
         COPY busybox /bin/busybox\n\
         COPY --from=build /machine /etc/machine\n\
         COPY page-*.txt /pages/\n\
         CMD [\"/bin/busybox\", \"httpd\", \"-f\", \"-h\", \"/pages\"]\n";
    Ok(fs::write(directory.join("Dockerfile"), dockerfile)?)
}

/// [`FILES`] files, all of which a step copies and one of which the image keeps: what is measured is the context.
pub(crate) fn many_files(directory: &Path, noise: &mut Noise) -> Result<()> {
    empty(directory)?;
    let mut contents = vec![0; FILE_BYTES];
    for number in 0..FILES {
        let inner = directory.join(format!("d{:03}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir(&inner)?;
        }
        noise.fill_digits(&mut contents);
        fs::write(inner.join(format!("f{:02}", number % FILES_PER_DIRECTORY)), &contents)?;
    }
    let dockerfile = "FROM scratch AS all\nCOPY . /all\nFROM scratch\nCOPY --from=all /all/d000/f00 /f00\n";
    Ok(fs::write(directory.join("Dockerfile"), dockerfile)?)
}

/// Changes one file of [`many_files`] that is not in the image.
pub(crate) fn change_one(directory: &Path, noise: &mut Noise) -> Result<()> {
    let number = 1 + noise.next() % (FILES / FILES_PER_DIRECTORY - 1) as u64;
    Ok(fs::write(directory.join(format!("d{number:03}/f10")), noise.next().to_string())?)
}

/// One file of 1 GiB, half noise and half hexadecimal digits. Target `small` copies it and keeps nothing of it,
/// target `large` keeps it.
pub(crate) fn gigabyte(directory: &Path, noise: &mut Noise) -> Result<()> {
    empty(directory)?;
    let mut file = BufWriter::new(fs::File::create(directory.join("blob"))?);
    let mut block = vec![0; 1 << 20];
    for number in 0..1024 {
        if number % 2 == 0 {
            noise.fill(&mut block)
        } else {
            noise.fill_digits(&mut block)
        }
        file.write_all(&block)?;
    }
    file.flush()?;
    let dockerfile = "FROM scratch AS all\n\
         COPY . /\n\
         FROM scratch AS small\n\
         COPY --from=all /Dockerfile /\n\
         FROM all AS large\n";
    Ok(fs::write(directory.join("Dockerfile"), dockerfile)?)
}
