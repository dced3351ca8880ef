//! What a job is to do, how far it is, and what it came to.

pub mod kind;
pub mod parameters;
pub mod planned;
pub mod prune;
pub mod quiesced;
pub mod restore;
pub mod result;
pub mod source;
pub mod state;

pub use kind::JobKind;
pub use parameters::Parameters;
pub use planned::PlannedBackup;
pub use result::JobResult;
pub use state::State;
