//! The connections that agents have dialled: who is here, and how to call them.
//!
//! The one place where agents are called. What goes to a host and what comes
//! from it is a message of the wire here and nowhere above: [`calls`] and
//! [`streams`] take domain types and give them, `crate::wire` converts. The catalogue
//! may be written, as what a host says of itself is; jobs and policies are the
//! business of those above.

pub mod answer;
pub mod calls;
pub mod connection;
pub mod inventory;
mod listing;
mod own;
pub mod registry;
pub mod streams;
mod texts;

pub use own::own_directories;
pub use registry::Fleet;
