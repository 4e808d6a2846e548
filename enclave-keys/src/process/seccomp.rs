//! A filter of system calls (seccomp(2)) for each architecture that this runs on, s390x included, which is big-endian
//! and which the libraries for it leave out.
//!
//! The program is classic BPF over `struct seccomp_data`: number (32 bits), architecture (32), instruction pointer
//! (64), six arguments (64 each), in the machine's byte order.

use std::io;

use libc::c_long;

/// Offset of the number of the system call in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of the architecture.
const ARCHITECTURE: u32 = 4;
/// Offset of the first argument.
const ARGUMENTS: u32 = 16;
/// Architecture of this program, `AUDIT_ARCH_…` of linux/audit.h: ELF machine, 64 bits, little-endian where it is.
#[cfg(target_arch = "x86_64")]
const HERE: u32 = 0xc000_003e;
#[cfg(target_arch = "s390x")]
const HERE: u32 = 0x8000_0016;

/// An argument by its place, 0 to 5. Its lower 32 bits are compared, which are all that rules here are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Argument(pub(super) u32);

impl Argument {
    /// Offset of its lower 32 bits.
    const fn offset(self) -> u32 {
        ARGUMENTS + 8 * self.0 + if cfg!(target_endian = "big") { 4 } else { 0 }
    }
}

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Let through.
    Allow,
    /// Let through if the argument's bits under `mask` are these.
    If { argument: Argument, mask: u32, equals: u32 },
    /// Refused with this error.
    Errno(libc::c_int),
}

/// A program for the kernel.
pub(super) struct Filter(Vec<libc::sock_filter>);

const fn statement(code: u32, k: u32) -> libc::sock_filter {
    // Codes are below 256.
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

const fn answer(action: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

const fn errno(error: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | (error.cast_unsigned() & libc::SECCOMP_RET_DATA)
}

/// Skips so many instructions if the accumulator is `k`, and so many if it is not.
const fn skip(k: u32, if_equal: u8, otherwise: u8) -> libc::sock_filter {
    let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    libc::sock_filter { code: code as u16, jt: if_equal, jf: otherwise, k }
}

impl Filter {
    /// System calls with a rule get it, all others are refused with this error. A call of another architecture ends
    /// the process.
    pub(super) fn new(rules: impl Iterator<Item = (c_long, Rule)>, refused: libc::c_int) -> Self {
        let mut program =
            vec![load(ARCHITECTURE), skip(HERE, 1, 0), answer(libc::SECCOMP_RET_KILL_PROCESS), load(NUMBER)];
        for (call, rule) in rules {
            let number = u32::try_from(call).expect("numbers of system calls are small");
            match rule {
                Rule::Allow => program.extend([skip(number, 0, 1), answer(libc::SECCOMP_RET_ALLOW)]),
                Rule::Errno(error) => program.extend([skip(number, 0, 1), answer(errno(error))]),
                Rule::If { argument, mask, equals } => program.extend([
                    skip(number, 0, 5),
                    load(argument.offset()),
                    statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask),
                    skip(equals, 0, 1),
                    answer(libc::SECCOMP_RET_ALLOW),
                    answer(errno(refused)),
                ]),
            }
        }
        program.push(answer(errno(refused)));
        Self(program)
    }

    /// Puts the filter before all threads of this process, for good. The process must have given up new privileges.
    #[expect(unsafe_code, reason = "no safe function offers seccomp(2)")]
    pub(super) fn install(mut self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).expect("a few hundred instructions"),
            filter: self.0.as_mut_ptr(),
        };
        // SAFETY: `program` describes the vector, which lives until the call returns; the kernel copies it.
        let failed = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_TSYNC,
                &raw const program,
            )
        };
        match failed {
            0 => Ok(()),
            -1 => Err(io::Error::last_os_error()),
            thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: classic BPF as far as filters here use it.
    fn ask(filter: &Filter, architecture: u32, call: c_long, arguments: [u64; 6]) -> u32 {
        let number = i32::try_from(call).expect("a number");
        let mut data = [&number.to_ne_bytes()[..], &architecture.to_ne_bytes(), &[0; 8]].concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let it = filter.0[at];
            at += 1;
            match u32::from(it.code) {
                0x20 => {
                    let word = &data[it.k as usize..it.k as usize + 4];
                    accumulator = u32::from_ne_bytes(word.try_into().expect("four bytes"));
                }
                0x54 => accumulator &= it.k,
                0x15 => at += usize::from(if accumulator == it.k { it.jt } else { it.jf }),
                0x06 => return it.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn filter() -> Filter {
        let flag = Rule::If { argument: Argument(1), mask: 0x30, equals: 0x10 };
        let rules = [(5, Rule::Allow), (6, Rule::Errno(38)), (7, flag), (8, Rule::Allow)];
        Filter::new(rules.into_iter(), 1)
    }

    const ALLOW: u32 = 0x7fff_0000;

    #[test]
    fn each_call_gets_its_rule_and_others_are_refused() {
        let filter = filter();
        let ask = |call| ask(&filter, HERE, call, [0; 6]);
        assert_eq!([ask(5), ask(8)], [ALLOW; 2]);
        assert_eq!(ask(6), 0x0005_0026);
        assert_eq!([ask(0), ask(4), ask(9), ask(0x4000_0005)], [0x0005_0001; 4]);
    }

    #[test]
    fn a_conditional_call_is_judged_by_the_lower_half_of_that_argument_alone() {
        let filter = filter();
        let ask = |argument| ask(&filter, HERE, 7, [0x20, argument, 0x10, 0, 0, 0]);
        assert_eq!([ask(0x10), ask(0x1f), ask(0xffff_ffff_0000_0010)], [ALLOW; 3]);
        assert_eq!([ask(0), ask(0x20), ask(0x30), ask(0x10_0000_0000)], [0x0005_0001; 4]);
    }

    #[test]
    fn calls_of_another_architecture_end_the_process() {
        for architecture in [0x4000_0003, HERE ^ 1, 0] {
            assert_eq!(ask(&filter(), architecture, 5, [0; 6]), 0x8000_0000);
        }
    }
}
