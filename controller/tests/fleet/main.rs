//! Identity, fleet and access, over real TLS with everything in this process.

mod access;
mod forwarding;
mod identity;
mod limits;
mod support;
