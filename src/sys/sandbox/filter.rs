//! From rules to a program of the classic Berkeley Packet Filter, as seccomp(2) takes it.
//!
//! Pure arithmetic, the same for every architecture: what a kernel would do with the
//! program of another one is tried by a small interpreter in the tests below.
//!
//! A rule is a block of its own, in the order of the table, those that are met most first. Where a rule
//! asks nothing of the arguments the kernel knows the answer from then on and does not run the
//! program (since 5.11). A call that no rule takes is trapped: it is not done, and the handler
//! of SIGSYS notes its number and dies (`seccomp`). What could be taken for another call, that is one
//! of a foreign architecture or a number that no table has, kills at once.

/// Which numbers and which word for itself a kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    #[cfg(target_arch = "x86_64")]
    pub const OURS: Arch = Arch::X86_64;
    #[cfg(target_arch = "aarch64")]
    pub const OURS: Arch = Arch::Aarch64;

    /// AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64 (linux/audit.h).
    fn word(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }
}

/// From here on no number is a call of ours: x32 has this bit set, and who dies on purpose uses one of them.
pub const FOREIGN_NUMBERS: u32 = 0x4000_0000;

/// What an argument must be. Only its lower half is looked at: the kernel looks at no more of those that are asked here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Argument, value.
    Is(u8, u32),
    /// Argument, bits of which none may be set.
    Lacks(u8, u32),
}

/// A call that is allowed.
#[derive(Debug)]
pub struct Rule {
    pub name: &'static str,
    /// Its number on x86-64 and on aarch64; `None`: there is no such call.
    pub numbers: [Option<u32>; 2],
    /// All of these, or it is not allowed.
    pub checks: &'static [Check],
    pub reason: &'static str,
    /// It is there for other machines than most.
    pub elsewhere: bool,
}

impl Rule {
    pub fn number(&self, arch: Arch) -> Option<u32> {
        self.numbers[arch as usize]
    }

    /// Whether it allows this call.
    pub fn allows(&self, arch: Arch, number: u32, arguments: &[u64; 6]) -> bool {
        let low = |at: u8| arguments[usize::from(at)] as u32;
        self.number(arch) == Some(number)
            && self.checks.iter().all(|check| match *check {
                Check::Is(at, value) => low(at) == value,
                Check::Lacks(at, bits) => low(at) & bits == 0,
            })
    }
}

/// One instruction (struct sock_filter).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub code: u16,
    /// How many steps are left out, if the comparison holds and if not.
    pub then: u8,
    pub otherwise: u8,
    pub value: u32,
}

/// BPF_LD|BPF_W|BPF_ABS, BPF_JMP with BPF_JEQ, BPF_JGE, BPF_JSET, BPF_RET, all with BPF_K (linux/bpf_common.h).
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// What becomes of the call (linux/seccomp.h).
pub const ALLOW: u32 = 0x7fff_0000;
pub const TRAP: u32 = 0x0003_0000;
pub const KILL: u32 = 0x8000_0000;
/// … it fails: ENOSYS, as on a kernel that has no such call.
pub const FAIL: u32 = 0x0005_0000 | 38;

/// Where struct seccomp_data has the number, the architecture and the lower half of an argument
/// (both architectures are little-endian).
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
fn argument_at(at: u8) -> u32 {
    16 + 8 * u32::from(at)
}

fn step(code: u16, then: u8, otherwise: u8, value: u32) -> Step {
    Step {
        code,
        then,
        otherwise,
        value,
    }
}

/// The program of a table. `otherwise`: what becomes of a call that is not in it.
pub fn program(arch: Arch, rules: &[Rule], otherwise: u32) -> Vec<Step> {
    let mut steps = vec![
        step(LOAD, 0, 0, ARCH_AT),
        step(EQUAL, 1, 0, arch.word()),
        step(RETURN, 0, 0, KILL),
        step(LOAD, 0, 0, NUMBER_AT),
        step(AT_LEAST, 0, 1, FOREIGN_NUMBERS),
        step(RETURN, 0, 0, KILL),
    ];
    for rule in rules {
        if let Some(number) = rule.number(arch) {
            block(rule, number, &mut steps);
        }
    }
    steps.push(step(RETURN, 0, 0, otherwise));
    steps
}

/// The number is loaded before and behind it.
fn block(rule: &Rule, number: u32, steps: &mut Vec<Step>) {
    // Two steps for each check, then the return, then the number again if it was lost.
    let checks = rule.checks.len() as u8;
    let to_end = 2 * checks + 1 + u8::from(checks > 0);
    // Another call has still its number loaded.
    steps.push(step(EQUAL, 0, to_end, number));
    for (done, check) in (0..).zip(rule.checks) {
        // Behind this check: the others, and the return.
        let to_reload = 2 * (checks - 1 - done) + 1;
        let (at, compare) = match *check {
            Check::Is(at, value) => (at, step(EQUAL, 0, to_reload, value)),
            Check::Lacks(at, bits) => (at, step(ANY_BIT, to_reload, 0, bits)),
        };
        steps.push(step(LOAD, 0, 0, argument_at(at)));
        steps.push(compare);
    }
    steps.push(step(RETURN, 0, 0, ALLOW));
    if checks > 0 {
        steps.push(step(LOAD, 0, 0, NUMBER_AT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sandbox::table::{KEYS, RESOLVER, WORKER};

    /// What the kernel would answer.
    fn run(steps: &[Step], arch: u32, number: u32, arguments: &[u64; 6]) -> u32 {
        let mut loaded = 0;
        let mut at = 0;
        for _ in 0..=steps.len() {
            let step = steps[at];
            let jump = |holds: bool| match holds {
                true => usize::from(step.then),
                false => usize::from(step.otherwise),
            };
            at += 1;
            match step.code {
                LOAD => {
                    loaded = match step.value {
                        NUMBER_AT => number,
                        ARCH_AT => arch,
                        other => {
                            assert!((16..64).contains(&other) && other % 8 == 0, "{other}");
                            arguments[(other as usize - 16) / 8] as u32
                        }
                    }
                }
                EQUAL => at += jump(loaded == step.value),
                AT_LEAST => at += jump(loaded >= step.value),
                ANY_BIT => at += jump(loaded & step.value != 0),
                RETURN => return step.value,
                other => panic!("no such step: {other:#x}"),
            }
        }
        panic!("no end")
    }

    /// Arguments that fit all checks of a rule.
    fn fitting(rule: &Rule) -> [u64; 6] {
        let mut arguments = [0xffff_ffff_0000_0000; 6];
        for check in rule.checks {
            if let Check::Is(at, value) = *check {
                arguments[usize::from(at)] |= u64::from(value);
            }
        }
        arguments
    }

    #[test]
    fn each_rule_allows_what_it_says_and_no_more() {
        for (arch, rules) in [Arch::X86_64, Arch::Aarch64]
            .map(|arch| [(arch, WORKER), (arch, KEYS), (arch, RESOLVER)])
            .concat()
        {
            let steps = program(arch, rules, TRAP);
            let allowed = |number, arguments: &[u64; 6]| {
                let by_table = rules
                    .iter()
                    .any(|rule| rule.allows(arch, number, arguments));
                let answer = run(&steps, arch.word(), number, arguments);
                assert_eq!(
                    answer,
                    if by_table { ALLOW } else { TRAP },
                    "{arch:?} {number}"
                );
                by_table
            };
            for rule in rules {
                let Some(number) = rule.number(arch) else {
                    continue;
                };
                assert!(allowed(number, &fitting(rule)), "{}", rule.name);
                for check in rule.checks {
                    let mut arguments = fitting(rule);
                    match *check {
                        Check::Is(at, _) => arguments[usize::from(at)] ^= 0x40_0000,
                        Check::Lacks(at, bits) => arguments[usize::from(at)] |= u64::from(bits),
                    }
                    assert!(!allowed(number, &arguments), "{} {check:?}", rule.name);
                }
            }
            let numbers = rules.iter().filter_map(|rule| rule.number(arch));
            let known: Vec<u32> = numbers.collect();
            for number in (0..600).filter(|number| !known.contains(number)) {
                assert!(!allowed(number, &[0; 6]));
            }
        }
    }

    #[test]
    fn foreign_architectures_and_numbers_kill() {
        for (arch, other) in [(Arch::X86_64, Arch::Aarch64), (Arch::Aarch64, Arch::X86_64)] {
            let steps = program(arch, WORKER, TRAP);
            // i386, arm, x32.
            for word in [other.word(), 0x4000_0003, 0x4000_0028, 0] {
                assert_eq!(run(&steps, word, 0, &[0; 6]), KILL);
            }
            for number in [FOREIGN_NUMBERS, FOREIGN_NUMBERS | 1, u32::MAX, 0x7fff_ffff] {
                assert_eq!(run(&steps, arch.word(), number, &[0; 6]), KILL);
            }
        }
    }

    /// The kernel takes no longer one, and no jump goes further than a byte says.
    #[test]
    fn the_program_is_short() {
        assert!(program(Arch::OURS, WORKER, TRAP).len() < 300);
        assert!(WORKER.iter().all(|rule| rule.checks.len() < 100));
    }
}
