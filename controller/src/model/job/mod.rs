//! What a job is to do, and how far it is.

pub mod parameters;
pub mod state;

pub use parameters::Parameters;
pub use state::State;
