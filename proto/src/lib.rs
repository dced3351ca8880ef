//! The wire contract of Holdfast.
//!
//! `proto/holdfast/v1/*.proto` is the source, one file a service; the code
//! below [`v1`] is generated from it and committed, so that building needs no
//! protoc. `tests/generated.rs` regenerates it and fails on a difference. Run
//! `HOLDFAST_REGENERATE=1 cargo test -p holdfast-proto` after changing a
//! `.proto` file.

#![warn(clippy::missing_errors_doc)]

pub mod closable;
pub mod error_code;
pub mod exit;
pub mod ids;
pub mod join_token;

pub use error_code::ErrorCode;
pub use exit::Exit;

/// Generated messages, clients and servers of package `holdfast.v1`.
#[allow(clippy::all, clippy::missing_errors_doc, clippy::unwrap_used, unreachable_pub, missing_docs)]
#[rustfmt::skip]
pub mod v1;

/// Encoded `FileDescriptorSet` of every service, for reflection, forwarding
/// and the role table.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("descriptor.bin");

/// Metadata key that names the host a call made on the controller is meant for.
pub const HOST_METADATA: &str = "holdfast-host";

/// Metadata key under which a forwarded call carries the operator's name.
pub const ACTOR_METADATA: &str = "holdfast-actor";

/// Metadata key under which a forwarded call carries the operator's role, for
/// answers that hold more for some than for others.
pub const ROLE_METADATA: &str = "holdfast-role";

/// The role that may know everything of a container.
pub const FULL_ROLE: &str = "admin";

/// Metadata key of the stable error word that goes with a `Status`.
pub const ERROR_CODE_METADATA: &str = "holdfast-error-code";

/// Metadata key of the next command to try, sent with a `Status`.
pub const HINT_METADATA: &str = "holdfast-hint";

/// ALPN protocol of a connection on which the agent is the gRPC server.
pub const AGENT_ALPN: &[u8] = b"holdfast-agent/1";

/// Largest message either end accepts, in bytes; longer lists are streams.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// The name every controller's certificate carries beside its addresses.
/// Agents and the CLI verify this one against the controller's own CA, so an
/// address may change, or be forwarded, without a new certificate.
pub const SERVER_NAME: &str = "controller.holdfast.internal";
