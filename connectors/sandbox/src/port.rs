//! Choosing a port nobody uses.

use std::{net::TcpListener, time::Duration};

use crate::{SandboxError, secret};

/// Below the range from which Linux takes the ports of outgoing connections: a server that is
/// stopped and started again must find its port free.
const RANGE: std::ops::Range<u64> = 11_000..32_000;

/// A port on 127.0.0.1 that was free a moment ago. The caller must be ready to find it taken.
pub(crate) fn free_port() -> Result<u16, SandboxError> {
    for _ in 0..1000 {
        let span = RANGE.end - RANGE.start;
        let number = RANGE.start + secret::random_u64()? % span;
        let Ok(port) = u16::try_from(number) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(SandboxError::Timeout {
        what: "find a free port on 127.0.0.1".to_owned(),
        limit: Duration::ZERO,
    })
}
