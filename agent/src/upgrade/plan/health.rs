//! How it will be known that the new container is well. Pure.

use serde_json::{Map, Value};

use super::changes::{argv, is_off};
use crate::upgrade::image::strings;
use crate::upgrade::record::{Options, Probe};

/// Between two looks of the Engine, where nobody said.
const ENGINES_INTERVAL_SECONDS: u64 = 30;

/// The health check the new container will have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    None,
    Image { interval_seconds: u64 },
    Own { interval_seconds: u64 },
}

impl Check {
    /// Fields a person set win over those of the image.
    pub(super) fn of(config: &Map<String, Value>, image: &Map<String, Value>) -> Self {
        let own = config.get("Healthcheck").unwrap_or(&Value::Null);
        let images = Value::Object(image.clone());
        let is_own = !strings(&own["Test"]).is_empty();
        let test = if is_own { own } else { &images };
        if is_off(test) || strings(&test["Test"]).is_empty() {
            return Self::None;
        }
        let interval = |check: &Value| check["Interval"].as_u64().filter(|&nanoseconds| nanoseconds > 0);
        // A container may set the interval alone: what it leaves open comes from the image.
        let nanoseconds = interval(own).or(interval(&images));
        let interval_seconds =
            nanoseconds.map_or(ENGINES_INTERVAL_SECONDS, |nanoseconds| nanoseconds.div_ceil(1_000_000_000));
        match is_own {
            true => Self::Own { interval_seconds },
            false => Self::Image { interval_seconds },
        }
    }

    /// When the Engine looks for the first time.
    pub(super) fn first_probe_seconds(&self) -> Option<u64> {
        match *self {
            Self::None => None,
            Self::Image { interval_seconds } | Self::Own { interval_seconds } => Some(interval_seconds),
        }
    }
}

/// "image healthcheck, 2 min; then `SELECT 1` (probe)"
pub(super) fn words(check: &Check, options: &Options, running: bool) -> String {
    if !running {
        return "none: the old container does not run, so the new one is not started".to_owned();
    }
    let within = duration(options.health_timeout_seconds);
    let first = match check {
        Check::Image { .. } => format!("image healthcheck, {within}"),
        Check::Own { .. } => format!("own healthcheck, {within}"),
        Check::None => {
            let steady = duration(options.steady_seconds);
            format!("no healthcheck: {steady} running without a restart, within {within}")
        }
    };
    let probe = options.probe.as_ref().map(|probe| match probe {
        Probe::Command(command) => format!("`{}` (probe)", argv(command)),
        Probe::Tcp(port) => format!("a connection to port {port} (probe)"),
        Probe::Http { port, path } => format!("GET {path} at port {port} (probe)"),
    });
    match probe {
        None => first,
        Some(probe) => format!("{first}; then {probe}"),
    }
}

fn duration(seconds: u32) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        _ if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(own: Value, image: Value) -> Check {
        let object = |value: Value| value.as_object().unwrap().clone();
        Check::of(&object(json!({ "Healthcheck": own })), &object(image))
    }

    #[test]
    fn the_new_containers_check_is_the_persons_over_the_images() {
        let ten = 10_000_000_000_u64;
        let image = json!({ "Test": ["CMD", "ok"], "Interval": ten });
        assert_eq!(check(Value::Null, image.clone()), Check::Image { interval_seconds: 10 });
        assert_eq!(
            check(json!({ "Test": ["CMD", "x"] }), image.clone()),
            Check::Own { interval_seconds: 10 }
        );
        assert_eq!(
            check(json!({ "Interval": 2 * ten }), image.clone()),
            Check::Image { interval_seconds: 20 }
        );
        assert_eq!(check(json!({ "Test": ["NONE"] }), image), Check::None);
        assert_eq!(
            check(Value::Null, json!({ "Test": ["CMD", "ok"] })),
            Check::Image { interval_seconds: 30 }
        );
        assert_eq!(check(Value::Null, json!({ "Test": ["NONE"] })), Check::None);
        assert_eq!(check(Value::Null, json!({})).first_probe_seconds(), None);
    }

    #[test]
    fn it_is_said_how_the_new_one_is_judged() {
        let mut options = Options::default();
        let image = Check::Image { interval_seconds: 10 };
        assert_eq!(words(&image, &options, true), "image healthcheck, 2 min");
        let argv = ["psql", "-c", "SELECT 1"].map(str::to_owned).to_vec();
        options.probe = Some(Probe::Command(argv));
        options.health_timeout_seconds = 90;
        let text = words(&image, &options, true);
        assert_eq!(text, "image healthcheck, 1 min 30 s; then `psql -c 'SELECT 1'` (probe)");
        options.probe = Some(Probe::Tcp(5432));
        options.steady_seconds = 5;
        let text = words(&Check::None, &options, true);
        assert_eq!(
            text,
            "no healthcheck: 5 s running without a restart, within 1 min 30 s; then a connection to port 5432 (probe)"
        );
        assert!(words(&image, &options, false).contains("not started"));
    }
}
