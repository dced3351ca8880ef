//! An Engine that refuses to stop or pause a container: it has an
//! authorization plugin that says no.

use std::path::Path;
use std::process::Command;

use e2e::docker::{Engine, IMAGE};
use e2e::fleet::{Fleet, Place};
use e2e::process::Process;
use e2e::{require_engine, wait};
use serde_json::{Value, json};

use super::{HOST, quiesced_container, source};

/// Refuses requests that match the pattern named second; the socket is named
/// first.
const JUDGE: &str = r#"
import http.server, json, re, socketserver, sys
class Judge(http.server.BaseHTTPRequestHandler):
    address_string = lambda self: "engine"
    log_message = lambda self, *words: None
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        answer = {"Allow": True}
        if self.path == "/Plugin.Activate": answer = {"Implements": ["authz"]}
        elif self.path == "/AuthZPlugin.AuthZReq":
            request = asked["RequestMethod"] + " " + asked["RequestUri"]
            if re.search(sys.argv[2], request): answer = {"Allow": False, "Msg": "the house does not allow it"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
socketserver.ThreadingUnixStreamServer(sys.argv[1], Judge).serve_forever()
"#;

fn judge(engine: &Engine, refuses: &str) -> Process {
    let socket = engine.plugins().join("judge.sock");
    let mut command = Command::new("python3");
    command.args(["-c", JUDGE]).arg(&socket).arg(refuses);
    let process = Process::start("authorization plugin", &command, &engine.dir().join("judge.log"));
    wait::until_true("the authorization plugin", 30, || Path::new(&socket).exists());
    process
}

/// What the Engine says was done to a container since it was made. The last
/// second may be missing.
fn done(engine: &Engine, container: &str) -> Result<Vec<String>, String> {
    let container = format!("container={container}");
    let mut events = vec!["events", "--since", "24h", "--until", "0s", "--filter", &container];
    for act in ["event=start", "event=stop", "event=pause", "event=unpause"] {
        events.extend(["--filter", act]);
    }
    events.extend(["--format", "{{.Action}}"]);
    Ok(engine.try_docker(events)?.lines().map(str::to_owned).collect())
}

#[test]
fn d13_if_one_of_two_is_refused_the_other_resumes_and_neither_is_saved() {
    require_engine!();
    let mut fleet = Fleet::controller_only(Place::Directory);
    fleet.start_controller(None);
    fleet.add_host_on(HOST, Engine::start_with_plugins());
    let engine = fleet.engine(HOST);
    engine.run_writer("db", "data");
    // It depends on the other one, and so rests before that is tried.
    let script = "trap 'exit 0' TERM; while true; do echo line >> /data/web; sleep 0.1; done";
    let web = ["run", "-d", "--name", "web", "--link", "db", "-v", "data:/data", IMAGE, "sh", "-c", script];
    engine.docker(web);
    engine.run_writer("apart", "other");
    let id = engine.inspect("db")["Id"].as_str().unwrap().to_owned();
    let _judge = judge(engine, &format!("^POST /v[0-9.]+/containers/{id}/(stop|pause)"));
    engine.configure(&json!({"authorization-plugins": ["judge"]}));
    wait::until("the Engine to refuse it", 60, || match engine.try_docker(["pause", &id]) {
        Err(failure) if failure.contains("the house does not allow it") => Ok(()),
        other => {
            let _ = engine.try_docker(["unpause", "db"]);
            Err(other)
        }
    });

    let before = engine.inspect("db")["State"]["StartedAt"].clone();
    let mut acts = vec!["start"];
    for (how, state, more) in
        [("stop", "stopped", ["stop", "start"]), ("pause", "paused", ["pause", "unpause"])]
    {
        let backup = ["backup", "run", "--host", HOST, "--volume", "data", "--volume", "other", "-o", "json"];
        let said = fleet.cli(&[&backup[..], &["--consistency", how]].concat()).ends_with(1);
        let job: Value = serde_json::from_str(&said.stdout).unwrap();
        let failed = source(&job, "data");
        assert_eq!(
            (&job["state"], &failed["error_code"]),
            (&"failed".into(), &"quiesce-failed".into()),
            "{job}"
        );
        let error = failed["error"].as_str().unwrap();
        let words = format!("container `db` could not be {state}; those that were, resume: ");
        assert!(error.contains(&words) && error.contains("the house does not allow it"), "{job}");
        // Whom it does not concern is saved.
        assert_eq!(source(&job, "other")["ok"], true, "{job}");
        assert_eq!(super::snapshots(&fleet, "data"), 0, "{job}");

        let web = quiesced_container(&job, "web");
        assert_eq!((&web["how"], &web["resumed"]), (&state.into(), &true.into()), "{job}");
        for name in ["db", "web", "apart"] {
            assert_eq!(engine.state(name), "running", "{how}: {name}");
        }
        acts.extend(more);
        let what = format!("all that was done to `web`: {acts:?}");
        wait::until_is(&what, 20, || done(engine, "web"), |seen| *seen == acts);
        assert_eq!(engine.inspect("db")["State"]["StartedAt"], before, "{how}");
    }
    engine.configure(&json!({}));
    wait::until("the Engine to allow it again", 60, || {
        engine.try_docker(["pause", "db"]).and_then(|_| engine.try_docker(["unpause", "db"]))
    });
    assert_eq!(fleet.backup(HOST, "data", "stop")["quiesced"].as_array().unwrap().len(), 2);
    assert_eq!((engine.state("db"), engine.state("web")), ("running".into(), "running".into()));
    fleet.assert_whole();
}
