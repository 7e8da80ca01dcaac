//! Which version this program is, and which form of the hand-over it speaks.
//!
//! Both stand in one text of the program's file and are read from there when
//! they are asked for: `strings` finds them, and a test makes the next version
//! out of a copy in which they are others.

/// `what=value` words of a width that does not change.
static MARK: &str = concat!(
    "sozu program: version=",
    env!("CARGO_PKG_VERSION"),
    " handover=0001 ."
);

fn word(name: &str) -> &'static str {
    // What stands in the file counts, not what the compiler knows of it.
    let mark: &'static str = std::hint::black_box(MARK);
    let mut words = mark.split(' ').filter_map(|word| word.split_once('='));
    let found = words.find(|(key, _)| *key == name);
    found.map_or("", |(_, value)| value)
}

/// As `sozu version` tells it.
pub fn version() -> &'static str {
    word("version")
}

/// The form of the text in which main hands over to its successor. It is raised by one with every
/// change of that text that is not an `optional` line. What the counters that all processes share
/// look like is told in the text, and has to be the same.
pub fn handover() -> u32 {
    word("handover").parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_there() {
        assert_eq!(version(), env!("CARGO_PKG_VERSION"));
        assert!(handover() > 0);
    }
}
