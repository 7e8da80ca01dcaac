#![no_main]

#[allow(dead_code)] // one property for each target
mod control_property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| control_property::worker(bytes));
