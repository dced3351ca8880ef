//! The connections that agents have dialled: who is here, how to call them,
//! and how a call meant for a host gets there.

pub mod connection;
pub mod forward;
pub mod listing;
mod own;
pub mod registry;

pub use own::own_directories;
pub use registry::Fleet;
