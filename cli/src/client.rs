//! Connections: to the controller over TLS with the operator's token, or to
//! an agent at its own socket.

use std::path::Path;
use std::time::Duration;

use holdfast_archive::secret_file::{self, SecretFileError};
use holdfast_proto::v1::audit_service_client::AuditServiceClient;
use holdfast_proto::v1::catalog_service_client::CatalogServiceClient;
use holdfast_proto::v1::container_service_client::ContainerServiceClient;
use holdfast_proto::v1::host_service_client::HostServiceClient;
use holdfast_proto::v1::job_service_client::JobServiceClient;
use holdfast_proto::v1::mount_service_client::MountServiceClient;
use holdfast_proto::v1::policy_service_client::PolicyServiceClient;
use holdfast_proto::v1::source_service_client::SourceServiceClient;
use holdfast_proto::v1::status_service_client::StatusServiceClient;
use holdfast_proto::v1::upgrade_service_client::UpgradeServiceClient;
use holdfast_proto::v1::volume_service_client::VolumeServiceClient;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Request, Status};

use crate::config::{Context, Target};
use crate::error::{CliError, ErrorCode, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A call that says nothing for this long has lost its server.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Adds the operator's token and the host a call is meant for.
#[derive(Clone)]
pub struct Headers {
    authorization: Option<MetadataValue<Ascii>>,
    host: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(value) = &self.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        if let Some(value) = &self.host {
            request.metadata_mut().insert(holdfast_proto::HOST_METADATA, value.clone());
        }
        Ok(request)
    }
}

pub type Service = InterceptedService<Channel, Headers>;

/// An open connection.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
    at_socket: bool,
}

/// What is said of a peer that takes a connection and then says nothing.
fn unanswered() -> String {
    format!("it took the connection and did not answer within {} s", CONNECT_TIMEOUT.as_secs())
}

// === impl Client ===

impl Client {
    /// Connects; returns once the other side has answered.
    ///
    /// # Errors
    /// A file that the target names cannot be read, or nobody answers within ten seconds.
    pub async fn connect(target: &Target) -> Result<Self> {
        match target {
            Target::Controller(context) => Self::connect_controller(context, CONNECT_TIMEOUT).await,
            Target::Socket(path) => Self::connect_socket(path).await,
        }
    }

    async fn connect_controller(context: &Context, limit: Duration) -> Result<Self> {
        let ca = read_file("the CA certificate", &context.ca_file)?;
        let token = SecretString::from(read_token(&context.token_file)?.trim().to_owned());
        let mut authorization: MetadataValue<Ascii> =
            format!("Bearer {}", token.expose_secret()).parse().map_err(|_| {
                CliError::usage(format!("{} does not hold a token", context.token_file.display()))
            })?;
        // So that nothing that prints a request prints the token.
        authorization.set_sensitive(true);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .domain_name(host_of(&context.address)?);
        let channel = Endpoint::from_shared(format!("https://{}", context.address))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(|error| wrong_address(&context.address, &chain(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            // A watch may be silent for hours; whether its other end still lives is asked
            // meanwhile.
            .keep_alive_while_idle(true);
        let out_of_reach = |why: &str| {
            let message = format!("the controller at {} is out of reach: {why}", context.address);
            CliError::new(ErrorCode::Unreachable, message).hint(
                "on its machine: systemctl status holdfast-controller; whether it is the right one, and its CA: \
                 holdfast context ls",
            )
        };
        // The limit of a connection alone ends with TCP: one that hangs takes that as well.
        let channel = tokio::time::timeout(limit, channel.connect())
            .await
            .map_err(|_| out_of_reach(&unanswered()))?
            .map_err(|error| out_of_reach(&chain(&error)))?;
        Ok(Self { channel, authorization: Some(authorization), at_socket: false })
    }

    async fn connect_socket(path: &Path) -> Result<Self> {
        let owned = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = owned.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let no_agent = |why: &str| {
            let message = format!("no agent answers at {}: {why}", path.display());
            CliError::new(ErrorCode::Unreachable, message)
                .hint("is holdfast-agent running, and are you root?")
        };
        // Only the form of an address: the connector goes to the socket whatever it says.
        let endpoint = Endpoint::from_static("http://agent");
        let channel = tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(connector))
            .await
            .map_err(|_| no_agent(&unanswered()))?
            .map_err(|error| no_agent(&chain(&error)))?;
        Ok(Self { channel, authorization: None, at_socket: true })
    }

    /// A controller at the other end of `channel`.
    #[cfg(test)]
    pub fn over(channel: Channel) -> Self {
        Self { channel, authorization: None, at_socket: false }
    }

    fn controller(&self) -> Result<Service> {
        // Found out before anything is sent: the agent would refuse it with less to say.
        if self.at_socket {
            return Err(CliError::usage(
                "this command needs a controller; an agent's socket does not serve it",
            )
            .hint("the same without --socket and HOLDFAST_SOCKET, with a context: holdfast context ls"));
        }
        Ok(self.service(None))
    }

    /// For an agent's services: forwarded to `host`, or served at the socket.
    fn agent(&self, host: Option<&str>) -> Result<Service> {
        // A command may have asked this before it dialled; here it holds for all of them.
        check_host(self.at_socket, host)?;
        let value = match host {
            Some(host) => {
                Some(host.parse().map_err(|_| CliError::usage(format!("`{host}` is no host name")))?)
            }
            None => None,
        };
        Ok(self.service(value))
    }

    fn service(&self, host: Option<MetadataValue<Ascii>>) -> Service {
        let headers = Headers { authorization: self.authorization.clone(), host };
        InterceptedService::new(self.channel.clone(), headers)
    }

    /// # Errors
    /// At an agent's socket, which does not serve it.
    pub fn hosts(&self) -> Result<HostServiceClient<Service>> {
        Ok(HostServiceClient::new(self.controller()?))
    }

    /// # Errors
    /// At an agent's socket, which does not serve it.
    pub fn sources(&self) -> Result<SourceServiceClient<Service>> {
        Ok(SourceServiceClient::new(self.controller()?))
    }

    /// # Errors
    /// At an agent's socket, which does not serve it.
    pub fn policies(&self) -> Result<PolicyServiceClient<Service>> {
        Ok(PolicyServiceClient::new(self.controller()?))
    }

    /// # Errors
    /// At an agent's socket, which does not serve it.
    pub fn jobs(&self) -> Result<JobServiceClient<Service>> {
        Ok(JobServiceClient::new(self.controller()?))
    }

    /// # Errors
    /// At an agent's socket, which does not serve it.
    pub fn catalog(&self) -> Result<CatalogServiceClient<Service>> {
        Ok(CatalogServiceClient::new(self.controller()?))
    }

    /// # Errors
    /// At an agent's socket, which does not serve it.
    pub fn audit(&self) -> Result<AuditServiceClient<Service>> {
        Ok(AuditServiceClient::new(self.controller()?))
    }

    /// # Errors
    /// At an agent's socket, which does not serve it.
    pub fn status(&self) -> Result<StatusServiceClient<Service>> {
        Ok(StatusServiceClient::new(self.controller()?))
    }

    /// # Errors
    /// At an agent's socket, which does not serve it.
    pub fn upgrades(&self) -> Result<UpgradeServiceClient<Service>> {
        Ok(UpgradeServiceClient::new(self.controller()?))
    }

    /// # Errors
    /// As [`check_host`], and for a name that no header can carry.
    pub fn containers(&self, host: Option<&str>) -> Result<ContainerServiceClient<Service>> {
        Ok(ContainerServiceClient::new(self.agent(host)?))
    }

    /// # Errors
    /// As [`check_host`], and for a name that no header can carry.
    pub fn volumes(&self, host: Option<&str>) -> Result<VolumeServiceClient<Service>> {
        Ok(VolumeServiceClient::new(self.agent(host)?))
    }

    /// # Errors
    /// As [`check_host`], and for a name that no header can carry.
    pub fn mounts(&self, host: Option<&str>) -> Result<MountServiceClient<Service>> {
        Ok(MountServiceClient::new(self.agent(host)?))
    }
}

/// Whether an agent's call has its one host: the socket's, or the one named.
///
/// # Errors
/// A host was named at a socket, or none to a controller.
pub fn check_host(at_socket: bool, host: Option<&str>) -> Result<()> {
    match (at_socket, host) {
        (true, None) | (false, Some(_)) => Ok(()),
        (true, Some(_)) => {
            Err(CliError::usage("--host and --socket exclude each other: a socket is one host's"))
        }
        (false, None) => {
            Err(CliError::usage("--host is missing: which host do you mean?").hint("holdfast host ls"))
        }
    }
}

fn read_token(path: &Path) -> Result<String> {
    secret_file::read(path).map_err(|error| match &error {
        SecretFileError::Read { path, source } => {
            CliError::io(&format!("the token in {} cannot be read", path.display()), source)
        }
        SecretFileError::Open { .. } => CliError::new(ErrorCode::OpenSecret, error.to_string()),
    })
}

fn read_file(what: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        let message = format!("{what} in {} cannot be read", path.display());
        CliError::io(&message, &error).hint(match error.kind() {
            std::io::ErrorKind::PermissionDenied => "run this as the user whose file it is",
            _ => {
                "`holdfast context ls` shows which files are meant; on the controller's machine: ca.crt in its state \
                 directory, and holdfast-controller token create NAME --role ROLE --file FILE makes a token"
            }
        })
    })
}

/// The name the certificate has to be for: without the port, and an IPv6 address
/// without its brackets. Of the parsed address, so that it is the host that is
/// dialled.
fn host_of(address: &str) -> Result<String> {
    let wrong = || wrong_address(address, "a host and a port are expected, as HOST:PORT");
    let uri: Uri = format!("https://{address}").parse().map_err(|_| wrong())?;
    let authority = uri.authority().filter(|authority| authority.as_str() == address).ok_or_else(wrong)?;
    let host = authority.host();
    let has_port = address.len() > host.len();
    if host.is_empty() || address.contains('@') || has_port && authority.port_u16().is_none() {
        return Err(wrong());
    }
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

fn wrong_address(address: &str, why: &str) -> CliError {
    CliError::usage(format!("controller address `{address}`: {why}"))
}

/// The innermost cause says what happened; the layers above only that
/// something did.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_has_to_be_for_the_host_that_is_dialled() {
        for (address, host) in [
            ("c.example:7443", "c.example"),
            ("c.example", "c.example"),
            ("[fd00::1]:7443", "fd00::1"),
            ("[fd00::1]", "fd00::1"),
            ("192.0.2.7:7443", "192.0.2.7"),
        ] {
            assert_eq!(host_of(address).expect(address), host);
        }
        for address in [
            "",
            ":7443",
            "c.example:",
            "c.example:70000",
            "c.example:7443@evil.example",
            "c.example/x:7443",
            "evil.example#c:1",
        ] {
            let error = host_of(address).expect_err(address);
            assert!(error.message.starts_with("controller address `"), "{}", error.message);
        }
    }

    /// A process that stands still, or hangs: its kernel takes connections for it.
    #[tokio::test]
    async fn a_controller_that_takes_connections_and_says_nothing_is_out_of_reach() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let dir = tempfile::tempdir().expect("temporary folder");
        let (ca_file, token_file) = (dir.path().join("ca.crt"), dir.path().join("token"));
        std::fs::write(&ca_file, "").expect("written");
        holdfast_archive::secret_file::write(&token_file, "token\n").expect("written");
        let address = listener.local_addr().expect("bound").to_string();
        let context = Context { address, ca_file, token_file };
        let error = Client::connect_controller(&context, Duration::from_millis(300)).await.err();
        let error = error.expect("no answer");
        assert_eq!(error.exit, crate::error::Exit::Unreachable);
        assert!(error.message.contains("did not answer"), "{}", error.message);
    }
}
