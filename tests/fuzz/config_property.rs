//! What must hold for every file: reading it does not panic, and the state of
//! an accepted one is rebuilt by its dump, line by line.

use sozu_lib::config::{read, Settings};
use sozu_lib::proto::command::Command;
use sozu_lib::state::State;
use std::path::Path;

pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut file = |_: &Path| Ok("An answer.\n".to_string());
    let (config, warnings) = match read(text, "config.toml", Path::new("/etc"), &mut file) {
        Ok(good) => good,
        Err(errors) => {
            assert!(!errors.0.is_empty());
            assert!(!errors.to_string().is_empty());
            return;
        }
    };
    for warning in warnings {
        assert!(!warning.to_string().is_empty());
    }
    let settings = Settings::decode(&config.settings.encode());
    assert_eq!(settings.as_ref(), Ok(&config.settings));

    let mut replay = State::default();
    for change in config.state.dump() {
        let line = change.encode();
        match Command::decode(&line, &config.settings.timeouts) {
            Ok(Command::Change(decoded)) => {
                assert_eq!(decoded, change);
                replay.apply(&decoded).expect("a dump applies");
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    assert_eq!(replay, config.state);
}
