//! Parallel gzip (RFC 1952) for layers.
//!
//! One pass: the uncompressed bytes are hashed while they are cut into blocks, the blocks are deflated
//! (RFC 1951) on several threads, and the compressed bytes are hashed while they are written. Each block starts
//! with the window of the block before and ends on a byte boundary, so the blocks join into one member that any
//! gzip reads. The output depends on the input only, never on the number of threads.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use provenance::digest::{Sha256Digest, Sha256Hasher};

/// Uncompressed bytes per block.
const BLOCK: usize = 1 << 20;
/// Deflate looks back at most this far (RFC 1951 §2).
const WINDOW: usize = 32 << 10;
/// Deflate level of blocks that compress.
const LEVEL: u32 = 6;
/// Bytes of a stored block (RFC 1951 §3.2.4).
const STORED: usize = u16::MAX as usize;
/// Samples of a block that decide whether it is worth deflating, and their length.
const SAMPLES: usize = 4;
const SAMPLE: usize = 8 << 10;

/// Header: magic, deflate, no flags, no time, no extra flags, unknown system (RFC 1952 §2.3.1).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty last block with fixed codes (RFC 1951 §3.2.3), byte aligned.
const END: [u8; 2] = [0x03, 0x00];

/// What compressing a layer gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressedLayer {
    /// Digest of the compressed bytes.
    pub digest: Sha256Digest,
    /// Number of compressed bytes.
    pub size: u64,
    /// Digest of the uncompressed bytes.
    pub diff_id: Sha256Digest,
    /// Number of uncompressed bytes.
    pub uncompressed_size: u64,
}

/// One block on its way to a worker.
struct Job {
    /// End of the block before.
    window: Arc<Vec<u8>>,
    block: Arc<Vec<u8>>,
    done: SyncSender<Vec<u8>>,
}

/// Compresses everything `reader` gives into `writer` on `threads` threads (at least one).
///
/// Memory stays below `4 * threads + 4` MiB. Errors are those of reader and writer.
pub fn compress_layer(
    reader: impl Read,
    writer: impl Write + Send,
    threads: usize,
) -> io::Result<CompressedLayer> {
    let threads = threads.max(1);
    let (jobs, queue) = sync_channel::<Job>(threads);
    let queue = Mutex::new(queue);
    let (ordered, results) = sync_channel::<Receiver<Vec<u8>>>(threads * 2);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&queue));
        }
        let writing = scope.spawn(move || write_blocks(writer, &results));
        let read = read_blocks(reader, &jobs, &ordered);
        // Closing both queues ends the workers and then the writer.
        drop((jobs, ordered));
        let written = writing.join().expect("the writing thread does not panic");
        // A writer that failed has closed its queue, which ends the reader early without an error of its own.
        let mut written = written?;
        let read = read?;
        written.finish(&read)
    })
}

/// What the reading side learnt.
struct ReadSide {
    diff_id: Sha256Digest,
    size: u64,
    crc: u32,
}

/// Cuts the input into blocks, hashes it and hands the blocks out in order.
fn read_blocks(
    mut reader: impl Read,
    jobs: &SyncSender<Job>,
    ordered: &SyncSender<Receiver<Vec<u8>>>,
) -> io::Result<ReadSide> {
    let mut hasher = Sha256Hasher::new();
    let mut crc = Crc::new();
    let mut size = 0;
    let mut window = Arc::new(Vec::new());
    loop {
        let mut block = Vec::with_capacity(BLOCK);
        reader.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            break;
        }
        hasher.update(&block);
        crc.update(&block);
        size += block.len() as u64;
        let block = Arc::new(block);
        let (done, result) = sync_channel(1);
        // Either fails only when the writer has given up.
        if ordered.send(result).is_err()
            || jobs.send(Job { window, block: Arc::clone(&block), done }).is_err()
        {
            break;
        }
        window = block;
    }
    Ok(ReadSide { diff_id: hasher.finish(), size, crc: crc.sum() })
}

/// Takes blocks until the queue is closed.
fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().expect("no worker panics with the lock").recv();
        let Ok(Job { window, block, done }) = job else { return };
        let window = &window[window.len().saturating_sub(WINDOW)..];
        // The writer may have given up.
        let _ = done.send(deflate_block(window, &block));
    }
}

/// A whole number of deflate blocks that end on a byte boundary, the last of them not final.
fn deflate_block(window: &[u8], block: &[u8]) -> Vec<u8> {
    if !is_compressible(block) {
        return store(block);
    }
    let deflated = deflate(window, block, LEVEL);
    if deflated.len() < block.len() { deflated } else { store(block) }
}

fn deflate(window: &[u8], block: &[u8], level: u32) -> Vec<u8> {
    let mut compress = Compress::new(Compression::new(level), false);
    if !window.is_empty() {
        compress.set_dictionary(window).expect("a fresh raw deflate stream takes a dictionary");
    }
    let mut output = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let input = &block[compress.total_in() as usize..];
        let before = output.len();
        let status = compress
            .compress_vec(input, &mut output, FlushCompress::Sync)
            .expect("memory to memory cannot fail");
        let full = output.len() == output.capacity();
        if compress.total_in() as usize == block.len() && !full {
            return output;
        }
        // A flush that has nothing more to write reports a buffer error, not progress.
        if status == Status::BufError && output.len() == before && !full {
            return output;
        }
        output.reserve(block.len() / 2 + 1024);
    }
}

/// Stored blocks: three bits and padding, length, its complement, the bytes.
fn store(block: &[u8]) -> Vec<u8> {
    let mut output = Vec::with_capacity(block.len() + 5 * block.len().div_ceil(STORED));
    for piece in block.chunks(STORED) {
        let length = u16::try_from(piece.len()).expect("a chunk is at most 65,535 bytes");
        output.push(0);
        output.extend_from_slice(&length.to_le_bytes());
        output.extend_from_slice(&(!length).to_le_bytes());
        output.extend_from_slice(piece);
    }
    output
}

/// Whether any of a few samples gets at least 3 % smaller. Archives, images and random data do not, and deflating
/// them takes most of the time of a large layer.
fn is_compressible(block: &[u8]) -> bool {
    if block.len() < SAMPLES * SAMPLE * 2 {
        return true;
    }
    let stride = (block.len() - SAMPLE) / (SAMPLES - 1);
    (0..SAMPLES).any(|number| {
        let sample = &block[number * stride..number * stride + SAMPLE];
        deflate(&[], sample, 1).len() < SAMPLE - SAMPLE / 32
    })
}

/// The compressed file so far.
struct Written<W> {
    writer: W,
    hasher: Sha256Hasher,
    size: u64,
}

impl<W: Write> Written<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.writer.write_all(bytes)
    }

    /// The last block, CRC-32 and size modulo 2^32 (RFC 1952 §2.3.1).
    fn finish(&mut self, read: &ReadSide) -> io::Result<CompressedLayer> {
        self.put(&END)?;
        self.put(&read.crc.to_le_bytes())?;
        self.put(&(read.size as u32).to_le_bytes())?;
        self.writer.flush()?;
        Ok(CompressedLayer {
            digest: self.hasher.clone().finish(),
            size: self.size,
            diff_id: read.diff_id,
            uncompressed_size: read.size,
        })
    }
}

fn write_blocks<W: Write>(writer: W, results: &Receiver<Receiver<Vec<u8>>>) -> io::Result<Written<W>> {
    let mut written = Written { writer, hasher: Sha256Hasher::new(), size: 0 };
    written.put(&HEADER)?;
    while let Ok(result) = results.recv() {
        // A block whose job was never queued: the reader has stopped.
        let Ok(block) = result.recv() else { break };
        written.put(&block)?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Text that compresses, bytes that do not, and a change between both inside a block.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        (0..length)
            .map(|at| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if at / 3_000_000 % 2 == 0 { b"the quick brown fox "[at % 20] } else { (state >> 56) as u8 }
            })
            .collect()
    }

    fn compress(input: &[u8], threads: usize) -> (Vec<u8>, CompressedLayer) {
        let mut output = Vec::new();
        let layer = compress_layer(input, &mut output, threads).expect("memory to memory");
        (output, layer)
    }

    fn gunzip(compressed: &[u8]) -> Vec<u8> {
        let mut child = Command::new("gzip")
            .arg("-dc")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gzip");
        let mut input = child.stdin.take().expect("piped");
        std::thread::scope(|scope| {
            scope.spawn(move || input.write_all(compressed).expect("gzip reads all"));
            let output = child.wait_with_output().expect("gzip ends");
            assert!(output.status.success(), "gzip -d refuses it");
            output.stdout
        })
    }

    #[test]
    fn gzip_reads_every_length_around_the_limits_of_blocks_and_stored_blocks() {
        for length in [0, 1, SAMPLE, STORED, BLOCK - 1, BLOCK, BLOCK + 1, 3_000_001, 7 * BLOCK + 5] {
            let input = sample(length);
            let (compressed, layer) = compress(&input, 3);
            assert!(gunzip(&compressed) == input, "{length}");
            assert_eq!(layer.digest, Sha256Digest::of(&compressed));
            assert_eq!(layer.diff_id, Sha256Digest::of(&input));
            assert_eq!((layer.size, layer.uncompressed_size), (compressed.len() as u64, length as u64));
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_bytes() {
        let input = sample(9_500_000);
        let (one, _) = compress(&input, 1);
        for threads in [0, 2, 4, 13] {
            assert!(compress(&input, threads).0 == one, "{threads} threads");
        }
    }

    #[test]
    fn a_reader_that_gives_single_bytes_changes_nothing() {
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = buffer.len().min(1);
                self.0.read(&mut buffer[..length])
            }
        }
        let input = sample(BLOCK + 100);
        let mut output = Vec::new();
        compress_layer(Slow(&input), &mut output, 2).expect("memory to memory");
        assert!(output == compress(&input, 2).0);
    }

    #[test]
    fn text_gets_small_across_blocks_and_noise_hardly_grows() {
        let text = sample(2_900_000);
        assert!(compress(&text, 2).0.len() < text.len() / 50);
        let noise = sample(6_000_000).split_off(3_000_000);
        let (compressed, _) = compress(&noise, 2);
        assert!(compressed.len() < noise.len() + noise.len() / 1000);
    }

    #[test]
    fn errors_of_reader_and_writer_come_through_and_nothing_hangs() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::other("reader"));
                }
                let length = buffer.len().min(self.0);
                self.0 -= length;
                buffer[..length].fill(1);
                Ok(length)
            }
        }
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self
                    .0
                    .checked_sub(bytes.len())
                    .ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = compress_layer(Broken(30 * BLOCK), io::sink(), 2).unwrap_err();
        assert_eq!(error.to_string(), "reader");
        let noise = sample(6_000_000).split_off(3_000_000).repeat(8);
        for room in [0, 5, 2 << 20] {
            let error = compress_layer(noise.as_slice(), Full(room), 2).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{room}");
        }
    }
}
