//! Containers that died at a fail point. No test is their parent, so that it is
//! the Engine that has to tell how they ended.

use std::collections::BTreeSet;

use chrono::Utc;

use crate::docker::Engine;
use crate::failpoints::FailPoint;
use crate::process::Process;
use crate::wait;

/// How containers of an Engine end, as the Engine reports it.
pub struct Deaths {
    events: Process,
}

impl Deaths {
    /// Listens from now on.
    pub fn watch(engine: &Engine) -> Self {
        let format = "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.exitCode}} {{.Actor.Attributes.signal}}";
        // From now on, also what happens before it listens.
        let since = Utc::now().format("%s.%f").to_string();
        let mut command = engine.command(["events", "--filter", "type=container", "--since", &since]);
        command.args(["--format", format]);
        let (_, log) =
            tempfile::NamedTempFile::new_in(engine.dir()).and_then(|file| Ok(file.keep()?)).expect("a file");
        Self { events: Process::start("docker events", &command, &log) }
    }

    /// Panics unless a container was killed by SIGKILL and nobody asked the
    /// Engine for that: so it did it itself, at its fail point.
    pub fn assert_one_at(&self, point: &str) {
        wait::until(&format!("the Engine to tell of a death at {point}"), 20, || {
            let told = self.events.output();
            killed_itself(&told).then_some(()).ok_or(told)
        });
        FailPoint::parse(point).record();
    }
}

/// Whether among these events is a death by SIGKILL without one that says that
/// the Engine sent it.
fn killed_itself(events: &str) -> bool {
    let mut sent = BTreeSet::new();
    for line in events.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["kill", id, _, "9"] => {
                sent.insert(id.to_owned());
            }
            ["die", id, code, ..] if !sent.remove(id) && code == "137" => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_that_the_engine_was_asked_for_is_none_at_a_fail_point() {
        assert!(killed_itself("start a  \ndie a 137 \n"));
        assert!(killed_itself("kill a  9\ndie a 137 \nstart a  \ndie a 137 \n"));
        assert!(killed_itself("kill b  9\ndie a 137 \ndie b 137 \n"));
        assert!(!killed_itself("kill a  9\ndie a 137 \n"));
        assert!(!killed_itself("kill a  15\nkill a  9\ndie a 137 \ndestroy a  \n"));
        assert!(!killed_itself("kill a  15\ndie a 0 \ndie b 1 \n"));
    }
}
