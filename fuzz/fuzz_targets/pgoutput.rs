//! Any bytes as a message of the `pgoutput` plugin: decoded or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../connectors/postgres/src/pgoutput/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the decoder as it is")]
mod pgoutput;

fuzz_target!(|data: &[u8]| {
    let message = bytes::Bytes::copy_from_slice(data);
    for streamed in [false, true] {
        // Whatever it says, it says so.
        let _said = pgoutput::decode(&message, streamed);
    }
});
