//! The properties of the fuzz targets, bounded: every file of each corpus, then
//! mutations of them from fixed seeds. A failure prints the input that it needs.

#[path = "fuzz/config_property.rs"]
mod config_property;
#[path = "fuzz/control_property.rs"]
mod control_property;
#[path = "fuzz/handover_property.rs"]
mod handover_property;
#[path = "fuzz/keys_property.rs"]
mod keys_property;
#[path = "fuzz/properties.rs"]
mod properties;

use properties::Cuts;

const MUTATIONS: u64 = 2000;

/// Bytes at which parsers disagree.
const TOKENS: [&[u8]; 28] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\t",
    b" ",
    b":",
    b";",
    b",",
    b"\"",
    b"\\",
    b"%",
    b"%00",
    b"%2e",
    b"/..",
    b"/./",
    b"?",
    b"#",
    b"*",
    b"@",
    b"[::1]",
    b"0",
    b"ffffffffffffffff",
    b"HTTP/1.1",
    b"\x7f",
    b"\x80",
    b"Transfer_Encoding: chunked\r\n",
];

/// Shows the input when the property panics.
struct Input<'a>(&'a str, u64, &'a [u8]);

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{} fails, seed {}: b\"{}\"",
                self.0,
                self.1,
                self.2.escape_ascii()
            );
        }
    }
}

fn smoke(target: &str, property: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "{target} has no corpus");
    for (seed, bytes) in corpus.iter().enumerate() {
        let _input = Input(target, seed as u64, bytes);
        property(bytes);
    }
    for seed in 0..MUTATIONS {
        let bytes = mutate(&corpus, seed);
        let _input = Input(target, seed, &bytes);
        property(&bytes);
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = format!("{}/tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(directory).expect("the corpus");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).expect("a file of the corpus"))
        .collect()
}

fn mutate(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = Cuts::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut bytes = corpus[random.next(corpus.len())].clone();
    for _ in 0..1 + random.next(4) {
        let at = random.next(bytes.len() + 1);
        let end = bytes.len().min(at + 1 + random.next(8));
        match random.next(6) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes[at..end]
                .iter_mut()
                .take(1)
                .for_each(|b| *b ^= 1 << random.next(8)),
            2 => bytes.truncate(at),
            3 => {
                let other = &corpus[random.next(corpus.len())];
                bytes.splice(at.., other[random.next(other.len() + 1)..].iter().copied());
            }
            4 => {
                let piece = bytes[at..end].repeat(1 + random.next(40));
                bytes.splice(at..at, piece);
            }
            _ => {
                let token = TOKENS[random.next(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn heads() {
    smoke("head", properties::head);
}

#[test]
fn chunks() {
    smoke("chunks", properties::chunks);
}

#[test]
fn hosts() {
    smoke("host", properties::host);
}

#[test]
fn client_hellos() {
    smoke("hello", properties::hello);
}

#[test]
fn configurations() {
    smoke("config", config_property::config);
}

#[test]
fn control_lines() {
    smoke("control", control_property::control);
}

#[test]
fn what_workers_say() {
    smoke("worker", control_property::worker);
}

#[test]
fn questions_to_the_key_process() {
    smoke("keys", keys_property::keys);
}

#[test]
fn handovers() {
    smoke("handover", handover_property::handover);
}
