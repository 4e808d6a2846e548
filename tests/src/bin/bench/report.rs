//! The table.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use provenance::timestamp::Timestamp;

/// What a row is to be.
pub(crate) enum Aim {
    /// At most this many times the yardstick.
    Ratio(f64),
    /// At most this long.
    Time(Duration),
    /// At most this many MiB.
    Memory(f64),
}

struct Row {
    measure: String,
    ours: String,
    theirs: String,
    ratio: String,
    aim: String,
    /// None where there is no aim.
    met: Option<bool>,
}

/// Rows in the order in which they were measured, and the machine.
pub(crate) struct Report {
    started: SystemTime,
    load: String,
    rows: Vec<Row>,
}

fn shown(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{} ms", (time.as_secs_f64() * 1000.0).round())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn first_line(path: &str, prefix: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or("?");
    line.trim_start_matches([' ', '\t', ':']).trim_end().to_owned()
}

fn load() -> String {
    first_line("/proc/loadavg", "").split(' ').take(2).collect::<Vec<_>>().join(" and ")
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { started: SystemTime::now(), load: load(), rows: Vec::new() }
    }

    /// A row with a yardstick.
    pub(crate) fn ratio(&mut self, measure: &str, (ours, theirs): (Duration, Duration), aim: Aim) {
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        let (aim, met) = match aim {
            Aim::Ratio(limit) => (format!("≤ {limit}×"), ratio <= limit),
            Aim::Time(_) | Aim::Memory(_) => unreachable!("a row with a yardstick has a ratio to meet"),
        };
        self.add(Row {
            measure: measure.to_owned(),
            ours: shown(ours),
            theirs: shown(theirs),
            ratio: format!("{ratio:.2}×"),
            aim,
            met: Some(met),
        });
    }

    /// A row that explains another and has nothing to meet.
    pub(crate) fn explain(&mut self, measure: &str, (ours, theirs): (Duration, Duration)) {
        self.add(Row {
            measure: measure.to_owned(),
            ours: shown(ours),
            theirs: shown(theirs),
            ratio: format!("{:.2}×", ours.as_secs_f64() / theirs.as_secs_f64()),
            aim: "–".into(),
            met: None,
        });
    }

    /// A row of its own.
    pub(crate) fn time(&mut self, measure: &str, time: Duration, limit: Duration) {
        self.single(measure, shown(time), Aim::Time(limit), time < limit);
    }

    /// A row of memory, in MiB.
    pub(crate) fn memory(&mut self, measure: &str, mib: f64, limit: f64) {
        self.single(measure, format!("{mib:.0} MiB"), Aim::Memory(limit), mib < limit);
    }

    fn single(&mut self, measure: &str, ours: String, aim: Aim, met: bool) {
        let aim = match aim {
            Aim::Time(limit) => format!("< {}", shown(limit)),
            Aim::Memory(limit) => format!("< {limit} MiB"),
            Aim::Ratio(limit) => format!("≤ {limit}×"),
        };
        self.add(Row {
            measure: measure.to_owned(),
            ours,
            theirs: "–".into(),
            ratio: "–".into(),
            aim,
            met: Some(met),
        });
    }

    fn add(&mut self, row: Row) {
        eprintln!("   {}: {} / {} = {} (aim {})", row.measure, row.ours, row.theirs, row.ratio, row.aim);
        self.rows.push(row);
    }

    /// docs/benchmarks.md.
    pub(crate) fn markdown(&self) -> String {
        let seconds = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let date = i64::try_from(seconds)
            .ok()
            .and_then(|s| Timestamp::from_unix(s).ok())
            .map_or_else(String::new, |t| t.to_string());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let memory: u64 =
            first_line("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
        let took = self.started.elapsed().unwrap_or_default().as_secs();
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{INTRODUCTION}\n\
             | | |\n|---|---|\n\
             | Command | `make bench`, {took} s |\n\
             | Date | {date} |\n\
             | Processor | {}, {cores} cores |\n\
             | Memory | {} GiB |\n\
             | Kernel | {} |\n\
             | Load before (1 and 5 minutes) | {} |\n\n\
             | Measure | Sealwright | Yardstick | Ratio | Aim | Met |\n|---|---|---|---|---|---|",
            first_line("/proc/cpuinfo", "model name"),
            memory >> 20,
            first_line("/proc/sys/kernel/osrelease", ""),
            self.load,
        );
        for row in &self.rows {
            let Row { measure, ours, theirs, ratio, aim, met } = row;
            let met = match met {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "–",
            };
            let _ = writeln!(out, "| {measure} | {ours} | {theirs} | {ratio} | {aim} | {met} |");
        }
        let _ = write!(out, "\n{NOTES}");
        out
    }
}

const INTRODUCTION: &str = "# Benchmarks

`make bench` writes this file to `target/benchmarks.md`; this is a copy of one run. Sealwright and the yardstick take turns,
on the same buildkitd with the same contexts, so that what else the machine does hits both. Figures are medians of whole
processes: from the start of the command to its exit, with connection, attestation, upload, build, signature, Evidence and
download on our side.
";

const NOTES: &str = "How each is measured:

- **Cached small build**: two layers from `scratch` and a RUN step, all cached. `sealwright build` to an OCI layout with
  signature, provenance and Evidence, against `buildctl build` with max provenance to an OCI archive.
- **Pushed**: the same to an empty repository of CNCF distribution on loopback, against `buildctl` with `push=true`, then
  `cosign sign`, then `cosign attest` with a predicate that is there already (cosign 3, no transparency log).
- **20,000 files** of 2 KiB in 200 directories. A step copies all, the image keeps one, so that the export does not count.
  The upload alone is from the start of the command until the server (or buildkitd) has the whole context.
- **1 GiB context**: one file, half noise and half hexadecimal digits, new for each run; a step copies it, the image keeps
  nothing of it. Processor time is that of all processes of both sides: command, server, daemon.
- **1 GiB layer**: the same file as a layer whose build is solved and not yet exported, gzip on both sides, to a
  finished layout at the client.
- **Server start**: to the line that says it is ready. A daemon starts with a project's first build. The software TEE's
  own keys, which no real server makes, are there already.
- **Resident memory** is that of the service; the key process is beside it.
- **Verify**: `sealwright verify` of the layout of the first row.
";
