//! Ports that stay reserved while their server is down.
//!
//! A test that kills a server and starts it again needs the same port for
//! both. The kernel gives ports of its ephemeral range to any client in
//! between; so these are below it, and a lock file for each keeps other tests
//! away, also those of other processes.

use std::fs::File;
use std::net::TcpListener;
use std::ops::Range;

use crate::locks;

/// How many ports below the ephemeral range are taken into account.
const COUNT: u16 = 10_000;

/// A TCP port of 127.0.0.1 that no other test has and no client is given.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Panics when no port is free.
    pub fn reserve() -> Self {
        let range = below_ephemeral();
        let first = rand::random_range(range.clone());
        let mut all = (first..range.end).chain(range.start..first);
        all.find_map(Self::of).unwrap_or_else(|| panic!("no port of {range:?} is free"))
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// Nothing when another test has it, or a server that is no test's.
    fn of(number: u16) -> Option<Self> {
        let lock = locks::try_lock(&format!("port-{number}"))?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Self { number, _lock: lock })
    }
}

fn below_ephemeral() -> Range<u16> {
    let file = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let lowest: u16 = text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a port");
    let start = lowest.saturating_sub(COUNT).max(1024);
    assert!(start < lowest, "{file} begins at {lowest}: no port is left that no client is given");
    start..lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_nobody_elses_until_it_is_dropped() {
        let port = Port::reserve();
        let number = port.number();
        assert!(below_ephemeral().contains(&number));
        assert!(Port::of(number).is_none(), "it was given twice");
        drop(port);
        assert!(Port::of(number).is_some(), "it was not given back");
    }

    #[test]
    fn a_port_somebody_listens_on_is_not_given() {
        let port = Port::reserve();
        let number = port.number();
        let listening = TcpListener::bind(("127.0.0.1", number)).unwrap();
        drop(port);
        assert!(Port::of(number).is_none());
        drop(listening);
    }
}
