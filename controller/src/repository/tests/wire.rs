//! The service as an agent reaches it: over a connection, with the limits of
//! messages that both ends have.

use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::v1::repository_service_client::RepositoryServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

use super::*;
use crate::api::caller::Caller;
use crate::repository::service::RepositoryApi;

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
