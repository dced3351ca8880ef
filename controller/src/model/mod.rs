//! What the controller decides with, without a database, a store or a
//! connection. Everything may use it; it uses nothing of the others.

pub mod caller;
#[cfg(test)]
mod exploration;
pub mod protocol;
