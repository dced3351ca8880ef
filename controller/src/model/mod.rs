//! What the controller decides with, without a database, a store, a connection
//! or a message of the wire. Everything above may use it; of this crate it uses
//! policies alone.

pub mod agent;
pub mod caller;
pub mod container;
pub mod event;
#[cfg(test)]
mod exploration;
pub mod job;
pub mod own_directory;
pub mod protocol;
pub mod request;
pub mod source;
pub mod upgrade;
pub mod work;
