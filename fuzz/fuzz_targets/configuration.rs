//! Any text as a configuration: accepted, or refused with a place and a reason, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let environment = |name: &str| (name == "PW").then(|| "secret-of-the-fuzzer".to_owned());
    if let Err(error) = cutover::config::parse(Path::new("cutover.yaml"), text, &environment) {
        assert!(!error.to_string().is_empty());
    }
});
