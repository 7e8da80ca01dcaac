#![no_main]

mod config_property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| config_property::config(bytes));
