//! What an agent says of itself and of its Engine.

use serde::{Deserialize, Serialize};

/// An agent as it last described itself. The JSON is kept in the catalogue:
/// names stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agent {
    pub version: String,
    /// One for each state directory and Engine: tells a reconnect from a clone
    /// of the machine.
    pub instance_id: String,
    /// `None` while the Engine does not answer; `engine_problem` says why.
    pub engine: Option<Engine>,
    pub engine_problem: String,
    /// What the host's own file allows: rights, and absolute paths.
    pub allow: Vec<String>,
    /// The agent's clock when it said so.
    pub now_unix_ms: i64,
}

/// A Docker Engine as it describes itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Engine {
    pub id: String,
    pub name: String,
    pub version: String,
    /// The newest version of the API that the Engine knows.
    pub api_version: String,
    /// The version that the agent uses.
    pub api_version_used: String,
    pub operating_system: String,
    pub kernel_version: String,
    pub storage_driver: String,
    pub data_root: String,
    pub cgroup_version: String,
    pub rootless: bool,
    pub userns_remap: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agents as rows of the first version have them.
    const GOLDEN: &str = include_str!("golden/agent-1.json");

    fn agents() -> Vec<Agent> {
        let engine = Engine {
            id: "b2f6".into(),
            name: "web-1".into(),
            version: "28.5.1".into(),
            api_version: "1.51".into(),
            api_version_used: "1.51".into(),
            operating_system: "Debian GNU/Linux 13".into(),
            kernel_version: "6.12.0".into(),
            storage_driver: "overlay2".into(),
            data_root: "/var/lib/docker".into(),
            cgroup_version: "2".into(),
            rootless: false,
            userns_remap: true,
        };
        let agent = Agent {
            version: "1.0.0".into(),
            instance_id: "01JCZ5Y3T8RZ0QK3T2M4V6W8XA".into(),
            engine: Some(engine),
            engine_problem: String::new(),
            allow: vec!["backup".into(), "/srv".into()],
            now_unix_ms: 1_764_583_200_000,
        };
        let mute = Agent { engine: None, engine_problem: "no such file".into(), ..agent.clone() };
        vec![agent, mute]
    }

    /// A controller that is upgraded reads the rows of the one before. Who
    /// changes what is written adds a file, and goes on to read this one.
    #[test]
    fn rows_are_read_and_written_as_they_ever_were() {
        let rows: serde_json::Value = serde_json::from_str(GOLDEN).expect("JSON");
        let read: Vec<Agent> = serde_json::from_value(rows.clone()).expect("reads");
        assert_eq!(read, agents());
        assert_eq!(serde_json::to_value(agents()).expect("JSON"), rows);
    }
}
