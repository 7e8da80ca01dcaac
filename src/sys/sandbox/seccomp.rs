//! seccomp(2): puts a program between this process and the kernel, and says which call a forbidden one was.

use std::io;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};

use super::filter::{Step, FOREIGN_NUMBERS, KILL};
use crate::sys::check;

const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
/// A filter switches on speculation barriers that cost several percent, on kernels before 5.16 for every process that has one: they
/// protect what code in a process may not see from other code in it. There is no such boundary in a worker.
const FILTER_FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// si_code of SIGSYS that a filter has raised.
const SYS_SECCOMP: libc::c_int = 1;

/// struct sock_fprog.
#[repr(C)]
struct Program {
    len: u16,
    steps: *const Step,
}

/// Where the number of a forbidden call is noted, plus one.
static NOTE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());

/// Whether the kernel has what we need of it.
pub fn available() -> io::Result<()> {
    // SAFETY: the kernel reads one integer that lives across the call.
    check(
        unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0u32, &KILL) } as libc::c_int,
    )?;
    Ok(())
}

/// From now on, for ever. Needs no_new_privs. Who does what the program forbids has its
/// number noted and dies of SIGSYS.
pub fn enter(steps: &[Step], note: &'static AtomicU64) -> io::Result<()> {
    NOTE.store(std::ptr::from_ref(note).cast_mut(), Relaxed);
    handle(libc::SIGSYS, trapped as *const () as libc::sighandler_t)?;
    // What std has put there calls what is forbidden, and would hide what happened.
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        handle(signal, libc::SIG_DFL)?;
    }
    let program = Program {
        len: u16::try_from(steps.len()).map_err(io::Error::other)?,
        steps: steps.as_ptr(),
    };
    // SAFETY: the program describes live steps, which the kernel copies and checks.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            FILTER_FLAG_SPEC_ALLOW,
            &program,
        )
    };
    check(done as libc::c_int)?;
    Ok(())
}

fn handle(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: sigaction is integers and a mask, for which all zeroes is a value: no flag, nothing masked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is only read, the old one not asked for; the handler has the type that SA_SIGINFO wants.
    check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    Ok(())
}

/// The call was not done. There is no way back from here: it ends in a number that kills.
extern "C" fn trapped(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a live siginfo; for SIGSYS of a filter the number is the integer behind two
    // words and an address (sigaction(2)), on 64-bit machines at byte 24. The note lives for ever.
    unsafe {
        if (*info).si_code == SYS_SECCOMP {
            let number = info.cast::<u8>().add(24).cast::<u32>().read();
            if let Some(note) = NOTE.load(Relaxed).as_ref() {
                note.store(u64::from(number) + 1, Relaxed);
            }
        }
        libc::syscall(libc::c_long::from(FOREIGN_NUMBERS));
        // Without a filter, somebody has sent SIGSYS.
        libc::_exit(libc::SIGSYS)
    }
}

/// Nothing of this process can be gained by running a program.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}
