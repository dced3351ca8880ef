//! The S3 server of a scenario that proves something about S3: Garage where it
//! is built, moto otherwise. Which one it was is told at the end of a run.

use std::path::PathBuf;

use crate::door::Door;
use crate::fleet::Place;
use crate::garage::{self, Garage};
use crate::moto::{self, Moto};
use crate::record;

/// Which server can be started here.
pub enum Available {
    Garage(PathBuf),
    Moto(PathBuf),
}

/// The better of those that are there, or what to do to have one.
///
/// # Errors
/// None is there; the error is about moto, which installs in a minute.
pub fn available() -> Result<Available, String> {
    garage::binary().map(Available::Garage).or_else(|_| moto::binary().map(Available::Moto))
}

/// A running server with one bucket.
pub struct ObjectStore {
    server: Server,
    pub endpoint: String,
    pub bucket: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
}

enum Server {
    Garage(Box<Garage>),
    Moto(Box<Moto>),
}

impl ObjectStore {
    pub fn start(available: Available) -> Self {
        let store = match available {
            Available::Garage(binary) => Self::garage(Garage::start(binary)),
            Available::Moto(binary) => Self::moto(binary),
        };
        record::append("stores", &format!("{}: {}", store.name(), record::test()));
        store
    }

    fn garage(garage: Garage) -> Self {
        Self {
            endpoint: garage.endpoint.clone(),
            bucket: garage.bucket.clone(),
            region: Garage::REGION.to_owned(),
            access_key: garage.access_key.clone(),
            secret_key: garage.secret_key.clone(),
            server: Server::Garage(Box::new(garage)),
        }
    }

    fn moto(binary: PathBuf) -> Self {
        let bucket = "holdfast".to_owned();
        let moto = Moto::start(binary, &bucket);
        Self {
            endpoint: moto.endpoint(),
            bucket,
            region: "us-east-1".to_owned(),
            access_key: "an-access-key".to_owned(),
            secret_key: "a-secret-key".to_owned(),
            server: Server::Moto(Box::new(moto)),
        }
    }

    /// Name and version.
    pub fn name(&self) -> String {
        match self.server {
            Server::Garage(_) => format!("Garage {}", garage::VERSION),
            Server::Moto(_) => format!("moto {}", moto::VERSION),
        }
    }

    /// For a fleet whose repository is to lie here.
    pub fn place(&self) -> Place {
        Place::S3 {
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
            region: self.region.clone(),
            access_key: self.access_key.clone(),
            secret_key: self.secret_key.clone(),
        }
    }

    /// Whether it looks at signatures, regions and checksums; if not, what a
    /// test asks of those says nothing.
    pub fn checks_requests(&self) -> bool {
        matches!(self.server, Server::Garage(_))
    }

    /// Whether `If-None-Match: *` keeps what is there.
    pub fn honours_conditions(&self) -> bool {
        matches!(self.server, Server::Moto(_))
    }

    /// Cuts it off, as a crash of it would.
    pub fn cut_off(&mut self) {
        match &mut self.server {
            Server::Garage(garage) => garage.kill(),
            Server::Moto(moto) => moto.cut_off(),
        }
    }

    /// Stands where it was, once it is cut off.
    pub fn door(&self) -> Door {
        let address = self.endpoint.strip_prefix("http://").and_then(|address| address.parse().ok());
        Door::at(address.expect("plain HTTP at an address"))
    }

    /// It answers again, with what it had stored.
    pub fn bring_back(&mut self) {
        match &mut self.server {
            Server::Garage(garage) => garage.restart(),
            Server::Moto(moto) => moto.bring_back(),
        }
    }
}

/// As `require_engine!`, for an S3 server; gives which one there is.
#[macro_export]
macro_rules! require_object_store {
    () => {
        match $crate::object_store::available() {
            Ok(available) => available,
            Err(reason) => {
                $crate::record::skipped(&reason);
                return;
            }
        }
    };
}
