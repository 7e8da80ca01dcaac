#![no_main]

#[allow(dead_code)] // one property for each target
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::hello(bytes));
