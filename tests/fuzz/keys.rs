#![no_main]

mod keys_property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keys_property::keys(bytes));
