//! What the controller decides with, without a database, a store or a
//! connection. Everything above may use it; of this crate it uses policies alone.

pub mod caller;
#[cfg(test)]
mod exploration;
pub mod job;
pub mod protocol;
