//! Running commands and reading clocks and memory.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end and gives the time from its start; an error holds what it said.
pub(crate) fn time(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{:?}", command.get_program()))?;
    let elapsed = started.elapsed();
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(elapsed)
}

/// Runs a command and gives the time from its start to the first line of stderr for which `found` holds, and
/// to its end.
pub(crate) fn time_to_line(
    command: &mut Command,
    mut found: impl FnMut(&str) -> bool,
) -> Result<(Duration, Duration)> {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().context("stderr is a pipe")?;
    let (mut at, mut said) = (None, String::new());
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if at.is_none() && found(&line) {
            at = Some(started.elapsed());
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait()?;
    let elapsed = started.elapsed();
    match at {
        Some(at) if status.success() => Ok((at, elapsed)),
        _ => bail!("{command:?}: {status}, the line that was waited for: {at:?}\n{said}"),
    }
}

/// The median; of an even number the mean of both in the middle.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let middle = times.len() / 2;
    if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2 }
}

/// Takes turns: `ours`, `theirs`, `ours`, … and gives both medians.
pub(crate) fn turns(
    rounds: usize,
    mut ours: impl FnMut(usize) -> Result<Duration>,
    mut theirs: impl FnMut(usize) -> Result<Duration>,
) -> Result<(Duration, Duration)> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        a.push(ours(round)?);
        b.push(theirs(round)?);
    }
    eprintln!("   ours {a:.2?}");
    eprintln!("   theirs {b:.2?}");
    Ok((median(a), median(b)))
}

/// Resident memory of a process in MiB: now, and its highest since [`reset_peak`].
pub(crate) fn resident(pid: u32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
    };
    field("VmRSS:").zip(field("VmHWM:")).with_context(|| format!("no memory in /proc/{pid}/status"))
}

/// Begins a new peak (proc(5), clear_refs).
pub(crate) fn reset_peak(pid: u32) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("reset the peak of resident memory")
}

/// Processor time that commands of this program have used to their end, with the server `pid`, its daemons and their
/// steps so far (proc(5), stat).
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    /// Positions after the name, which may hold anything and ends with `)`.
    const PARENT: usize = 1;
    const OWN: [usize; 2] = [11, 12];
    const WAITED_FOR: [usize; 2] = [13, 14];
    let fields = |name: &str| -> Option<Vec<u64>> {
        let stat = std::fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        Some(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
    };
    let sum = |fields: &[u64], which: &[usize]| which.iter().filter_map(|at| fields.get(*at)).sum::<u64>();
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if let Ok(number) = name.parse::<u64>()
            && let Some(fields) = fields(&name)
        {
            processes.push((number, fields));
        }
    }
    let own = fields("self").context("no /proc/self/stat")?;
    let mut ticks = sum(&own, &WAITED_FOR);
    let mut family = vec![u64::from(pid)];
    while let Some(member) = family.pop() {
        for (number, fields) in &processes {
            if *number == member {
                ticks += sum(fields, &OWN) + sum(fields, &WAITED_FOR);
            }
            if fields.get(PARENT) == Some(&member) {
                family.push(*number);
            }
        }
    }
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

/// Writes what is dirty, so that no side pays for what was written before it.
pub(crate) fn settle() {
    rustix::fs::sync();
    std::thread::sleep(Duration::from_millis(300));
}
