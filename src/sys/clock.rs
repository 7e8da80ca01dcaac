//! The clock that all processes of the machine share.

/// Microseconds since some moment before this machine's start-up, the same for every process
/// (CLOCK_MONOTONIC): what one process notes of a connection means the same in the next. Never 0.
pub fn monotonic_us() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` lives across the call. The clock exists on every Linux: it cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_and_is_never_zero() {
        let first = monotonic_us();
        assert!(first > 0);
        while monotonic_us() == first {}
        assert!(monotonic_us() > first);
    }
}
