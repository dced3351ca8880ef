//! Hosts join a fleet, and join it again.

use super::controller::under;
use super::{Fleet, Host};
use crate::docker::Engine;
use crate::wait;

impl Fleet {
    /// What hosts that join from now on allow besides.
    pub fn allow(&mut self, rights: &[&str]) {
        self.rights = rights.iter().map(|&right| right.to_owned()).collect();
    }

    /// A new Engine, enrolled under `name`, its agent connected.
    pub fn add_host(&mut self, name: &str) {
        self.add_host_under(name, &[]);
    }

    /// As [`Self::add_host`], its agent started by way of another command,
    /// which becomes it.
    pub fn add_host_under(&mut self, name: &str, wrapper: &[String]) {
        let host = self.new_host(name, Engine::start());
        self.enrol(host, wrapper);
    }

    /// As [`Self::add_host`], on an Engine that runs already.
    pub fn add_host_on(&mut self, name: &str, engine: Engine) {
        let host = self.new_host(name, engine);
        self.enrol(host, &[]);
    }

    fn enrol(&mut self, mut host: Host, wrapper: &[String]) {
        let name = host.name.clone();
        host.join(&self.token(&name), &self.rights);
        host.start_agent_with(under(wrapper, "holdfast-agent"), None);
        self.hosts.push(host);
        self.wait_connected(&name);
    }

    /// A new Engine and an agent that runs beside it and knows no controller.
    pub fn add_unjoined(&mut self, name: &str) {
        let mut host = self.new_host(name, Engine::start());
        host.start_agent(None);
        let socket = host.socket();
        wait::until("the agent's socket", 30, || socket.exists().then_some(()).ok_or("not there"));
        self.hosts.push(host);
    }

    fn new_host(&self, name: &str, engine: Engine) -> Host {
        Host::new(name, engine, self.dir.path().join(name))
    }

    /// Enrols a host beside its agent, which is left alone. What `join` said is
    /// returned.
    pub fn join_beside(&mut self, name: &str, token: &str) -> String {
        let rights = self.rights.clone();
        self.host(name).join(token, &rights)
    }

    /// Enrols a host again under the name it has, and starts its agent again.
    pub fn rejoin(&mut self, name: &str, token: &str) {
        let rights = self.rights.clone();
        let host = self.host(name);
        host.agent().kill();
        host.join(token, &rights);
        host.start_agent(None);
    }

    pub fn token(&self, name: &str) -> String {
        self.ok(&["host", "token", name])
    }

    pub fn wait_connected(&self, name: &str) {
        self.wait_json(&format!("host {name} to connect"), 30, &["host", "show", name], |host| {
            host["connected"] == true && host["engine_version"] != ""
        });
    }

    pub fn host(&mut self, name: &str) -> &mut Host {
        self.hosts.iter_mut().find(|host| host.name == name).expect("a host of this fleet")
    }

    pub fn engine(&self, name: &str) -> &Engine {
        &self.hosts.iter().find(|host| host.name == name).expect("a host of this fleet").engine
    }

    pub(crate) fn hosts_mut(&mut self) -> &mut [Host] {
        &mut self.hosts
    }
}
