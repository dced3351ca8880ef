//! A fleet: one controller, and an agent beside each private Engine, as the
//! processes an operator would start, driven through the command line.

mod commands;
mod controller;
mod host;
mod hosts;
mod order;
mod place;
mod said;
mod snapshots;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ports::Port;
use crate::process::Process;

pub use host::Host;
use order::Leaves;
pub use place::Place;
pub use said::Said;

/// Taken down, with everything in it, when dropped. What has to be in order at
/// the end of any test is looked at before that.
pub struct Fleet {
    controller: Option<Process>,
    port: Port,
    place: Place,
    /// What hosts that join allow besides backup, restore and one directory.
    rights: Vec<String>,
    hosts: Vec<Host>,
    leaves: Leaves,
    dir: TempDir,
}

impl Fleet {
    /// A controller with a directory repository, and these hosts connected.
    pub fn start(names: &[&str]) -> Self {
        Self::start_on(Place::Directory, names)
    }

    /// One whose hosts allow these rights besides.
    pub fn start_allowing(rights: &[&str], names: &[&str]) -> Self {
        let mut fleet = Self::controller_only(Place::Directory);
        fleet.allow(rights);
        fleet.start_with(names);
        fleet
    }

    pub fn start_on(place: Place, names: &[&str]) -> Self {
        let mut fleet = Self::controller_only(place);
        fleet.start_with(names);
        fleet
    }

    fn start_with(&mut self, names: &[&str]) {
        self.start_controller(None);
        for name in names {
            self.add_host(name);
        }
    }

    /// Initialised, not running.
    pub fn controller_only(place: Place) -> Self {
        let dir = TempDir::with_prefix("hff").expect("temporary folder");
        let fleet = Self {
            controller: None,
            port: Port::reserve(),
            place,
            rights: Vec::new(),
            hosts: Vec::new(),
            leaves: Leaves::default(),
            dir,
        };
        fleet.make_state("init");
        fleet
    }

    /// Where the controller listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("controller")
    }

    pub fn repository_dir(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    /// Packs of the repository in a directory, as they lie there, and their
    /// lengths in bytes.
    pub fn packs(&self) -> BTreeMap<PathBuf, u64> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.repository_dir().join("packs")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("a folder of packs") {
                let entry = entry.expect("an entry");
                let meta = entry.metadata().expect("a pack");
                if meta.is_dir() {
                    dirs.push(entry.path());
                } else {
                    found.insert(entry.path(), meta.len());
                }
            }
        }
        found
    }

    pub fn credentials_file(&self) -> PathBuf {
        self.dir.path().join("s3.credentials")
    }

    /// Ends controller and agents, after a look at what has to be in order. The
    /// files stay until it is dropped: where they lie on a disk of their own, that
    /// is unmounted between the two.
    pub fn close(&mut self) {
        if !std::thread::panicking() {
            self.assert_in_order();
        }
        // Agents first: they would only log that the controller has gone.
        self.hosts.iter_mut().for_each(Host::end_agent);
        self.controller = None;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.close();
    }
}
