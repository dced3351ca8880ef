//! What the controller decides with, without a database, a store, a connection
//! or a message of the wire. Everything above may use it; of this crate it uses
//! policies alone.

pub mod agent;
pub mod caller;
#[cfg(test)]
mod exploration;
pub mod job;
pub mod protocol;
pub mod source;
pub mod upgrade;
