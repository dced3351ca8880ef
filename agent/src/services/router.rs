//! The services put together as one server.

use std::time::Duration;

use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::v1::agent_service_server::AgentServiceServer;
use holdfast_proto::v1::container_service_server::ContainerServiceServer;
use holdfast_proto::v1::mount_service_server::MountServiceServer;
use holdfast_proto::v1::snapshot_service_server::SnapshotServiceServer;
use holdfast_proto::v1::volume_service_server::VolumeServiceServer;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

use crate::state::AgentState;

use super::{AgentApi, ContainerApi, MountApi, SnapshotApi, VolumeApi};

/// The longest any handler may take before it answers.
const HANDLER_LIMIT: Duration = Duration::from_secs(15 * 60);

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams and calls at once on one connection.
const STREAMS: u32 = 64;

/// Bytes of metadata one call may carry.
const HEADER_BYTES: u32 = 16 << 10;

/// All services of an agent, the same for every way to reach it.
pub(crate) fn router(state: &AgentState) -> Router {
    let volumes =
        VolumeApi::new(state.config.clone(), state.engine.clone(), state.holders.clone(), state.own.clone());
    let sound = "the descriptors were checked when they were generated";
    let reflection = reflection_builder().build_v1().expect(sound);
    // Tools in use ask for this one first, or alone.
    let older_reflection = reflection_builder().build_v1alpha().expect(sound);
    Server::builder()
        .timeout(HANDLER_LIMIT)
        .concurrency_limit_per_connection(STREAMS as usize)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(HealthServer::new(HealthService::from_health_reporter(state.health.clone())))
        .add_service(reflection)
        .add_service(older_reflection)
        .add_service(
            AgentServiceServer::new(AgentApi::new(state.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            VolumeServiceServer::new(volumes)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            MountServiceServer::new(MountApi::new(state.engine.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            ContainerServiceServer::new(ContainerApi::new(state))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            SnapshotServiceServer::new(SnapshotApi::new(state.snapshots.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
}

/// Tells those who ask for the health of the services.
pub(crate) async fn set_serving(state: &AgentState, status: ServingStatus) {
    for name in [
        // By the protocol of gRPC health, the empty name is the server as a whole.
        "",
        AgentServiceServer::<AgentApi>::NAME,
        VolumeServiceServer::<VolumeApi>::NAME,
        MountServiceServer::<MountApi>::NAME,
        ContainerServiceServer::<ContainerApi>::NAME,
        SnapshotServiceServer::<SnapshotApi>::NAME,
    ] {
        state.health.set_service_status(name, status).await;
    }
}

fn reflection_builder() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(holdfast_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
