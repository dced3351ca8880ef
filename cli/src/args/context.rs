//! `holdfast context`, as types.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List contexts.
    Ls,
    /// Add or replace a context; the first becomes the current one.
    Add { name: String },
    /// Make a context the current one.
    Use { name: String },
    /// Remove a context.
    Rm { name: String },
}
