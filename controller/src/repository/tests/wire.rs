//! The service as an agent reaches it: over a connection, with the limits of
//! messages that both ends have.

use holdfast_archive::snapshot::decode_body;
use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::v1;
use holdfast_proto::v1::repository_service_client::RepositoryServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

use super::*;
use crate::api::repository::RepositoryApi;
use crate::model::caller::Caller;

impl World {
    /// A connection of this world's host. Who calls is what the certificate
    /// would say.
    pub(super) async fn client(&self) -> RepositoryServiceClient<Channel> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let incoming = futures_util::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let host = self.host;
        let identified = move |mut request: Request<()>| -> Result<Request<()>, Status> {
            request.extensions_mut().insert(Caller::Agent { host, host_name: "web-1".to_owned() });
            Ok(request)
        };
        let service = InterceptedService::new(RepositoryApi::service(self.repository.clone()), identified);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(Box::pin(incoming)));
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        RepositoryServiceClient::new(channel.connect().await.expect("connected"))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// Attempt 1 commits what it could read and dies; attempt 2 reads all of it.
#[tokio::test]
async fn h11_a_repeated_commit_is_answered_with_what_the_first_one_said_of_itself() {
    let world = World::new().await;
    let mut client = world.client().await;
    let (job, generation) = world.job().await;
    let open = async || {
        world.repository.open_upload(world.host, job, generation, world.source).await.expect("opens")
    };
    let whole = tree("some content");
    let account = decode_body(&whole.body).expect("a body");
    let stats = Stats { entries: 2, files: 1, size_bytes: 3, torn_files: 1, ..Stats::default() };
    let problems = vec!["data: changed while it was read".to_owned()];
    let partial = encode_body(&SnapshotBody { partial: true, problems: problems.clone(), stats, ..account });
    let lease = open().await.lease;
    world.send(lease, &whole.pack).await;
    let mut commit = async |lease: LeaseId, body: Vec<u8>| {
        let request = v1::CommitSnapshotRequest { lease_id: lease.to_string(), body: body.into() };
        match client.commit_snapshot(request).await.expect("answers").into_inner().outcome {
            Some(v1::commit_snapshot_response::Outcome::Committed(committed)) => committed,
            other => panic!("{other:?}"),
        }
    };
    let first = commit(lease, partial).await;
    assert!(first.partial, "{first:?}");
    let lease = open().await.lease;
    let second = commit(lease, whole.body.clone()).await;
    assert_eq!(second, first, "the snapshot is the first one's, and so is what is said of it");
    assert_eq!(second.problems, problems);
    assert_eq!(second.stats.map(|stats| (stats.size_bytes, stats.torn_files)), Some((3, 1)));
}
