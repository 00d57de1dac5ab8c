//! Choice of ports.
//!
//! Asking the system for port 0 gives a port of the ephemeral range, which the system also hands to outgoing
//! connections. That is wrong for a service that is killed and started again in a test: while it is down, a client
//! that keeps trying to reconnect can be given exactly that port as its own source port, connect to itself, and
//! keep the service from binding. So ports come from below the ephemeral range, tried by binding.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

/// Lowest port that is tried: below it live well-known development servers.
const LOWEST: u16 = 12_000;
/// Start of the ephemeral range when the system does not say (the Linux default).
const EPHEMERAL: u16 = 32_768;

/// Whether `port` on 127.0.0.1 can be bound now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Returns `count` different ports of 127.0.0.1 that were free a moment ago.
///
/// They are held together while they are chosen, so they differ; nothing reserves them afterwards.
pub fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let end = ephemeral_start().max(LOWEST + 2_000);
    let span = u64::from(end - LOWEST);
    let mut held = Vec::with_capacity(count);
    let mut candidate = crate::process::random_u64()?;
    for _ in 0..20_000 {
        if held.len() == count {
            break;
        }
        // A fixed odd stride visits the whole range without clustering next to a busy neighbour.
        candidate = candidate.wrapping_add(7_919);
        let port = LOWEST + u16::try_from(candidate % span).unwrap_or(0);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push(listener);
        }
    }
    while held.len() < count {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn ephemeral_start() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_stay_below_the_ephemeral_range() {
        let mut ports = free_ports(20).unwrap();
        assert!(ports.iter().all(|port| *port < ephemeral_start().max(LOWEST + 2_000)), "{ports:?}");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }

    #[test]
    fn a_bound_port_is_not_free() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(held.local_addr().unwrap().port()));
    }
}
