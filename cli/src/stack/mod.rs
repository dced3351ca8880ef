//! A controller and an agent on this machine, as the processes an operator
//! would start: what `demo` and `dev` stand on.
//!
//! No other command uses it. It touches the folder it is given and the two
//! processes it starts, and talks to them as an operator would.

mod process;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_proto::v1::{CreateJoinTokenRequest, GetHostRequest, Host};

use crate::client::Client;
use crate::config::{Context, Target};
use crate::error::{CliError, Exit, Result};

use process::Process;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Where things are, before anything runs.
#[derive(Debug, Clone)]
pub struct Layout {
    pub root: PathBuf,
    /// Folder of `holdfast-controller` and `holdfast-agent`.
    pub binaries: PathBuf,
    pub docker_host: String,
}

/// The running pair. Both are told to end when this is dropped.
pub struct Stack {
    pub layout: Layout,
    controller: Option<Process>,
    agent: Option<Process>,
}

// === impl Layout ===

impl Layout {
    /// Beside this binary, unless told otherwise.
    ///
    /// # Errors
    /// A binary of the two is not where it should be.
    pub fn new(root: &Path, binaries: Option<PathBuf>, docker_host: &str) -> Result<Self> {
        let binaries = match binaries {
            Some(dir) => dir,
            None => {
                std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned)).ok_or_else(
                    || CliError::failed("this binary cannot tell where it is").hint("give --binaries PATH"),
                )?
            }
        };
        for name in ["holdfast-controller", "holdfast-agent"] {
            if !binaries.join(name).exists() {
                return Err(CliError::usage(format!("{name} is not in {}", binaries.display()))
                    .hint("build it: cargo build --release, or give --binaries PATH"));
            }
        }
        Ok(Self { root: root.to_owned(), binaries, docker_host: docker_host.to_owned() })
    }

    pub fn controller_dir(&self) -> PathBuf {
        self.root.join("controller")
    }

    pub fn agent_dir(&self) -> PathBuf {
        self.root.join("agent")
    }

    pub fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }

    pub fn agent_socket(&self) -> PathBuf {
        self.root.join("agent.sock")
    }

    /// The address the controller wrote down once it was listening.
    fn address(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.controller_dir().join("listen")).ok()?;
        Some(text.trim().to_owned())
    }

    /// How the stack's own controller is reached.
    ///
    /// # Errors
    /// No controller has said yet where it listens.
    pub fn context(&self) -> Result<Context> {
        let address =
            self.address().ok_or_else(|| CliError::failed("the controller has not said where it listens"))?;
        let dir = self.controller_dir();
        Ok(Context { address, ca_file: dir.join("ca.crt"), token_file: dir.join("admin.token") })
    }
}

// === impl Stack ===

impl Stack {
    /// Makes the controller's state, unless it is there already.
    ///
    /// # Errors
    /// `holdfast-controller init` failed; the error is what it said.
    pub fn prepare(layout: Layout) -> Result<Self> {
        let dir = layout.controller_dir();
        if !dir.join("catalog.db").exists() {
            Process::run(
                &layout.binaries.join("holdfast-controller"),
                &[
                    "init".as_ref(),
                    "--state-dir".as_ref(),
                    dir.as_os_str(),
                    "--repository".as_ref(),
                    layout.repository().as_os_str(),
                    "--address".as_ref(),
                    "127.0.0.1".as_ref(),
                    "--crypto".as_ref(),
                    "none".as_ref(),
                ],
            )?;
        }
        Ok(Self { layout, controller: None, agent: None })
    }

    /// Starts the controller on a free port; returns once it answers.
    ///
    /// # Errors
    /// It ended, or does not listen within 30 s; the error has its last words.
    pub async fn start_controller(&mut self) -> Result<Client> {
        let dir = self.layout.controller_dir();
        // A file of an earlier run names a port that is no longer ours.
        let _ = std::fs::remove_file(dir.join("listen"));
        let process = Process::start(
            &self.layout.binaries.join("holdfast-controller"),
            &[
                "run".as_ref(),
                "--state-dir".as_ref(),
                dir.as_os_str(),
                "--listen".as_ref(),
                "127.0.0.1:0".as_ref(),
            ],
            &self.layout.root.join("controller.log"),
        )?;
        // Kept before it is waited for: one that never listens is stopped as well.
        until_listening(self.controller.insert(process), &self.layout).await?;
        Client::connect(&Target::Controller(self.layout.context()?)).await
    }

    /// Enrols this machine as `name` and starts its agent; returns once the
    /// controller sees it.
    ///
    /// # Errors
    /// It cannot join, ended, or is not connected within 30 s; the error has its last
    /// words.
    pub async fn start_agent(&mut self, client: &Client, name: &str) -> Result<Host> {
        let dir = self.layout.agent_dir();
        let agent = self.layout.binaries.join("holdfast-agent");
        // A state directory that was kept has joined already; its controller knows it.
        if !dir.join("identity.json").exists() {
            self.join(client, name, &agent).await?;
        }
        let process = Process::start(
            &agent,
            &[
                "run".as_ref(),
                "--state-dir".as_ref(),
                dir.as_os_str(),
                "--docker-host".as_ref(),
                self.layout.docker_host.as_ref(),
                "--socket".as_ref(),
                self.layout.agent_socket().as_os_str(),
            ],
            &self.layout.root.join("agent.log"),
        )?;
        // Kept before it is waited for, as the controller is.
        until_connected(self.agent.insert(process), client, name).await
    }

    /// `holdfast-agent join`, with a token that is gone afterwards.
    async fn join(&self, client: &Client, name: &str, agent: &Path) -> Result<()> {
        let request =
            CreateJoinTokenRequest { name: name.to_owned(), labels: Default::default(), valid_seconds: 600 };
        let token = client.hosts()?.create_join_token(request).await?.into_inner().token;
        self.join_with(&token, agent)
    }

    fn join_with(&self, token: &str, agent: &Path) -> Result<()> {
        // By way of a file that only its owner reads: arguments are for everybody to see.
        let file = self.layout.root.join("join.token");
        let dir = self.layout.agent_dir();
        let joined = holdfast_archive::secret_file::write(&file, token)
            .map_err(|error| CliError::io(&file.display().to_string(), &error))
            .and_then(|()| {
                let args = ["join".as_ref(), file.as_os_str(), "--state-dir".as_ref(), dir.as_os_str()];
                Process::run(agent, &args)
            });
        // Whatever came of it: a token that was not used is still good.
        let _ = std::fs::remove_file(&file);
        joined
    }

    /// Returns when one of the two has ended by itself, with its last words.
    ///
    /// # Errors
    /// Always, when one has ended: the error has its last words.
    pub async fn until_ended(&mut self) -> Result<Exit> {
        loop {
            for process in [&mut self.controller, &mut self.agent].into_iter().flatten() {
                process.check()?;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Ends both in order: the agent first, so that it can say goodbye.
    pub fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop();
        }
        if let Some(controller) = self.controller.take() {
            controller.stop();
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until the controller has said where it listens.
async fn until_listening(controller: &mut Process, layout: &Layout) -> Result<()> {
    // The controller writes its address down once it listens; asking the port would not tell it
    // from another one.
    let deadline = Instant::now() + START_TIMEOUT;
    while layout.address().is_none() {
        controller.check()?;
        if Instant::now() > deadline {
            return Err(CliError::failed("the controller is not up; its last words:").more(controller.tail()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits until the controller sees the agent, and the agent its Engine.
async fn until_connected(agent: &mut Process, client: &Client, name: &str) -> Result<Host> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        // One that has ended will not connect: its last words are the reason.
        agent.check()?;
        let answer = client.hosts()?.get_host(GetHostRequest { host: name.to_owned() }).await;
        let last = match answer.map(tonic::Response::into_inner) {
            Ok(host) if host.connected && host.agent.as_ref().is_some_and(|agent| agent.engine.is_some()) => {
                return Ok(host);
            }
            Ok(host) => host.agent.map(|agent| agent.engine_problem).unwrap_or_default(),
            Err(status) => status.message().to_owned(),
        };
        if Instant::now() > deadline {
            let message = format!("the agent is not connected: {last}; its last words:");
            return Err(CliError::failed(message).more(agent.tail()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_join_token_stays_behind_whether_or_not_the_agent_has_joined() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let layout = Layout {
            root: dir.path().to_owned(),
            binaries: dir.path().to_owned(),
            docker_host: String::new(),
        };
        let stack = Stack { layout, controller: None, agent: None };
        for (agent, joins) in [("/bin/true", true), ("/bin/false", false), ("/nowhere/agent", false)] {
            assert_eq!(stack.join_with("a token", Path::new(agent)).is_ok(), joins, "{agent}");
            assert!(!dir.path().join("join.token").exists(), "{agent}");
        }
    }
}
