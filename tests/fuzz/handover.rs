#![no_main]

mod handover_property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| handover_property::handover(bytes));
