//! The connections that agents have dialled: who is here and how to call them.

pub mod answer;
pub mod connection;
pub mod inventory;
pub mod listing;
mod own;
pub mod registry;

pub use own::own_directories;
pub use registry::Fleet;
