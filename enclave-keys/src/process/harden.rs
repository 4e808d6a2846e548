//! What keeps others out of the process that holds the keys, and keeps it from doing more than it must.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::seccomp::{Argument, Filter, Rule};

/// Why the process is not protected. It must not hold keys then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotHardened {
    /// The kernel refused.
    #[error("could not {what}: {source}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Before there is a key: no debugger, no core dump, no swap (proc(5), core(5), mlockall(2)).
pub fn protect() -> Result<(), NotHardened> {
    let refused = |what| move |error: rustix::io::Errno| NotHardened::Refused { what, source: error.into() };
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused("make the process not dumpable"))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(refused("forbid core dumps"))?;
    // On fault: the stacks of threads that wait are large and mostly unused.
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(refused("lock memory (mlockall; raise RLIMIT_MEMLOCK)"))
}

/// After the device is open: the system calls of [`ALLOWED`] and no others, for all threads and for good (seccomp(2)).
/// There is no socket, no program and no process among them.
pub fn confine() -> Result<(), NotHardened> {
    let refused = |what| move |source: io::Error| NotHardened::Refused { what, source };
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| refused("give up new privileges")(error.into()))?;
    filter().install().map_err(refused("filter system calls (seccomp)"))
}

/// Memory, threads, clocks, files by path (configfs, the sealed file), devices, and sockets that are open already.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fchmod,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_getdents64,
    libc::SYS_ioctl,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_ppoll,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getuid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same by path, which the C library uses where they exist.
const ALLOWED_BY_PATH: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_poll,
];

/// Which argument of clone(2) holds the flags: the order differs between architectures.
const CLONE_FLAGS: Argument = Argument(if cfg!(target_arch = "s390x") { 1 } else { 0 });

fn filter() -> Filter {
    let simple = ALLOWED.iter().chain(ALLOWED_BY_PATH).map(|call| (*call, Rule::Allow));
    let thread = libc::CLONE_THREAD.cast_unsigned();
    let code = libc::PROT_EXEC.cast_unsigned();
    let named = libc::PR_SET_NAME.cast_unsigned();
    let special = [
        // clone3 hides its flags in memory, where no filter sees them; without it the C library takes clone.
        (libc::SYS_clone3, Rule::Errno(libc::ENOSYS)),
        // Threads, no processes.
        (libc::SYS_clone, Rule::If { argument: CLONE_FLAGS, mask: thread, equals: thread }),
        // Data, no code.
        (libc::SYS_mprotect, Rule::If { argument: Argument(2), mask: code, equals: 0 }),
        #[cfg(not(target_arch = "s390x"))]
        (libc::SYS_mmap, Rule::If { argument: Argument(2), mask: code, equals: 0 }),
        // Its arguments are in memory there.
        #[cfg(target_arch = "s390x")]
        (libc::SYS_mmap, Rule::Allow),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_arch_prctl, Rule::Allow),
        // Names of threads, nothing else.
        (libc::SYS_prctl, Rule::If { argument: Argument(0), mask: u32::MAX, equals: named }),
    ];
    Filter::new(simple.chain(special), libc::EPERM)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::process::Command;

    const CHILD: &str = "SEALWRIGHT_TEST_CONFINED";

    /// For tests that change their process for good, as root may. In the child: true. In the parent: runs the test of this
    /// name alone in a child, asserts that it passed, and is false.
    fn in_own_process(name: &str) -> bool {
        if std::env::var_os(CHILD).is_some() {
            return true;
        }
        let name = format!("process::harden::tests::{name}");
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", &name, "--test-threads", "1", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("it starts");
        let said =
            String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        false
    }

    #[test]
    fn a_protected_process_dumps_no_core_takes_no_debugger_and_is_not_swapped() {
        if !in_own_process("a_protected_process_dumps_no_core_takes_no_debugger_and_is_not_swapped") {
            return;
        }
        protect().expect("protected");
        let dumpable = rustix::process::dumpable_behavior().expect("a flag");
        assert_eq!(dumpable, DumpableBehavior::NotDumpable);
        let core = rustix::process::getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
        // Of memory from before and from after.
        let locked = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("proc");
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("a line");
            line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
        };
        let before = locked();
        assert!(before > 0, "what was there is locked");
        let more = std::hint::black_box(vec![7_u8; 8 << 20]);
        assert!(locked() >= before + (8 << 10), "what came is locked");
        drop(more);
    }

    /// qemu's user emulation has no seccomp(2).
    #[test]
    fn a_confined_process_has_threads_and_files_and_no_socket_program_or_code() {
        if !in_own_process("a_confined_process_has_threads_and_files_and_no_socket_program_or_code") {
            return;
        }
        let other = std::thread::spawn(|| {
            std::thread::park();
            std::net::UdpSocket::bind("127.0.0.1:0").map_err(|error| error.raw_os_error())
        });
        confine().expect("confined");
        other.thread().unpark();
        let refused = Some(libc::EPERM);
        assert_eq!(other.join().expect("no panic").err(), Some(refused), "a thread from before");
        let socket = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.raw_os_error());
        assert_eq!(socket.err(), Some(refused));
        let program = Command::new("/bin/true").status().map_err(|error| error.raw_os_error());
        assert_eq!(program.err(), Some(refused));
        let path = std::env::temp_dir().join(format!("sealwright-confined-{}", std::process::id()));
        std::fs::write(&path, "text").and_then(|()| std::fs::remove_file(&path)).expect("files");
        std::thread::Builder::new()
            .name("named".to_owned())
            .spawn(|| vec![7_u8; 8 << 20].len())
            .expect("a thread")
            .join()
            .expect("memory");
    }
}
