//! What keeps others out of the process that holds the keys, and keeps it from doing more than it must.

use std::collections::BTreeMap;
use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

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
    /// The filter of system calls could not be made: a bug.
    #[error("filter of system calls: {0}")]
    Filter(String),
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
    let filter = |error: &dyn std::fmt::Display| NotHardened::Filter(error.to_string());
    // clone3 hides its flags in memory, where no filter sees them; without it the C library takes clone.
    for program in [without_clone3().map_err(|e| filter(&e))?, allowed().map_err(|e| filter(&e))?] {
        seccompiler::apply_filter_all_threads(&program).map_err(|error| filter(&error))?;
    }
    Ok(())
}

/// Memory, threads, clocks, files by path (configfs, the sealed file), devices, and sockets that are open already.
const ALLOWED: &[i64] = &[
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
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_poll,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

type Compiled = Result<BpfProgram, seccompiler::BackendError>;

fn architecture() -> Result<TargetArch, seccompiler::BackendError> {
    std::env::consts::ARCH.try_into()
}

fn without_clone3() -> Compiled {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, missing, architecture()?)?.try_into()
}

fn allowed() -> Compiled {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    // The other filter answers it.
    rules.insert(libc::SYS_clone3, Vec::new());
    let argument = |index, operator, value| {
        let width = SeccompCmpArgLen::Qword;
        SeccompCondition::new(index, width, operator, value).and_then(|only| SeccompRule::new(vec![only]))
    };
    // Threads, no processes.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![argument(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // Data, no code.
    let code = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![argument(2, SeccompCmpOp::MaskedEq(code), 0)?]);
    }
    // Names of threads, nothing else.
    let named = libc::PR_SET_NAME as u64;
    rules.insert(libc::SYS_prctl, vec![argument(0, SeccompCmpOp::Eq, named)?]);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, refused, SeccompAction::Allow, architecture()?)?.try_into()
}
