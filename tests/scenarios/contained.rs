//! The procedure of `deploy/CONTAINERS.md`, its commands as they stand there,
//! with the real docker-compose; and what is true of an agent in a container
//! only.

use std::process::Command;
use std::time::Duration;

use e2e::command::{run, try_run};
use e2e::contained::{Contained, commands};
use e2e::docker::IMAGE;
use e2e::process::Process;
use e2e::{failpoints, record, require_engine, wait};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../deploy/CONTAINERS.md");

/// What a reader fills in, once each.
const PLACEHOLDERS: [(&str, &str); 1] = [("ADDRESS=backup.example.org", "ADDRESS=127.0.0.1")];

fn has_compose() -> bool {
    let there = Command::new("docker-compose").arg("version").output().is_ok();
    if !there {
        record::skipped("`docker-compose` is not installed");
    }
    there
}

/// The blocks of the procedure, filled in.
fn procedure() -> Vec<String> {
    let mut document = DOCUMENT.to_owned();
    for (placeholder, value) in PLACEHOLDERS {
        assert_eq!(document.matches(placeholder).count(), 1, "{placeholder}");
        document = document.replace(placeholder, value);
    }
    commands(&document)
}

/// A machine on which the procedure was carried out up to some block.
struct Machine {
    contained: Contained,
    blocks: Vec<String>,
}

impl Machine {
    /// Carries out the blocks up to the first with `last` in it.
    fn set_up(last: &str) -> Self {
        let contained = Contained::start();
        contained.engine.run_writer("web", "web_data");
        let blocks = procedure();
        let machine = Self { contained, blocks };
        let until = machine.index(last);
        machine.run(&machine.blocks[..=until].concat());
        machine
    }

    fn index(&self, text: &str) -> usize {
        let found = self.blocks.iter().position(|block| block.contains(text));
        found.unwrap_or_else(|| panic!("no command of the procedure has `{text}`"))
    }

    /// Runs a script as a reader of the procedure would go on.
    fn run(&self, script: &str) -> String {
        run(&mut self.contained.shell(script))
    }

    /// A block of the procedure, in a shell that has the variables of earlier
    /// ones.
    fn block(&self, text: &str) -> String {
        let variables = &self.blocks[self.index("ADDRESS=")];
        format!("cd deploy\n{variables}{}", self.blocks[self.index(text)])
    }

    fn holdfast(&self, command: &str) -> String {
        self.run(&format!("cd deploy; docker-compose exec -T controller holdfast {command}"))
    }

    fn json(&self, command: &str) -> Value {
        serde_json::from_str(&self.holdfast(&format!("{command} -o json"))).expect("JSON")
    }

    /// Makes the agent's container anew with more settings, given as YAML of
    /// the service.
    fn recreate_agent(&self, more: &str) {
        let file = self.contained.dir().join("more.yaml");
        std::fs::write(&file, format!("services:\n  agent:\n{more}")).unwrap();
        let files = format!("compose.yaml:{}", file.display());
        let up = "cd deploy; docker-compose up -d agent";
        run(self.contained.shell(up).env("COMPOSE_FILE", files));
        wait::until_is(
            "the agent to connect",
            60,
            || {
                try_run(
                    &mut self
                        .contained
                        .shell("cd deploy; docker-compose exec -T controller holdfast host ls -o json"),
                )
            },
            |hosts| serde_json::from_str::<Value>(hosts).is_ok_and(|hosts| hosts[0]["connected"] == true),
        );
    }

    /// Has the agent stand still with `web` paused.
    fn halt_while_paused(&self) {
        self.recreate_agent("    environment:\n      HOLDFAST_FAILPOINT: halt agent.quiesce.after-pause\n");
        let start =
            "cd deploy; docker-compose exec -T controller holdfast backup run nightly --no-wait || true";
        self.run(start);
        self.contained.engine.wait_state("web", "paused", 60);
        let process = "docker inspect --format '{{.State.Pid}}' \"$(cd deploy; docker-compose ps -q agent)\"";
        let stat = format!("/proc/{}/stat", self.run(process));
        wait::until_is(
            "the agent to stand still",
            60,
            || std::fs::read_to_string(&stat),
            |line| line.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')),
        );
        failpoints::FailPoint::parse("halt agent.quiesce.after-pause").record();
    }
}

#[test]
fn v21_v23_the_documented_procedure_leads_from_nothing_to_a_restored_volume() {
    require_engine!();
    if !has_compose() {
        return;
    }
    let machine = Machine::set_up("holdfast snapshot ls");
    let engine = &machine.contained.engine;

    // Holdfast's own are named, neither backed up nor paused.
    let explained = machine.holdfast("policy explain nightly");
    let own = "Holdfast's own, never backed up: holdfast_agent, holdfast_controller";
    assert!(explained.contains(own), "{explained}");
    let snapshots = machine.json("snapshot ls");
    let sources: Vec<&str> =
        snapshots.as_array().unwrap().iter().map(|snapshot| snapshot["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["web_data"], "{snapshots}");
    let jobs = machine.json("job ls");
    let job = machine.json(&format!("job show {}", jobs[0]["id"].as_str().unwrap()));
    assert_eq!(job["state"], "succeeded", "{job}");
    let quiesced: Vec<&str> =
        job["quiesced"].as_array().unwrap().iter().map(|one| one["container"].as_str().unwrap()).collect();
    assert_eq!(quiesced, ["web"], "{job}");
    let listed = machine.holdfast("volume ls --host \"$(hostname)\"");
    assert_eq!(listed.matches("Holdfast's own, never backed up: the state of the").count(), 2, "{listed}");
    let named = "try() { docker-compose exec -T controller holdfast backup run --host \"$(hostname)\" --volume holdfast_controller; }; cd deploy; ! try";
    let refused = machine.run(&format!("{named} 2>&1"));
    assert!(refused.contains("Holdfast's own"), "{refused}");

    machine.run(&machine.block("holdfast restore volume"));
    let restored = std::fs::read_to_string(engine.volume_path("web_data_restored").join("log")).unwrap();
    let now = std::fs::read_to_string(engine.volume_path("web_data").join("log")).unwrap();
    assert!(!restored.is_empty() && now.starts_with(&restored), "{restored}");
    let status = machine.run(&format!("{} || [ $? = 3 ]", machine.block("holdfast status").trim_end()));
    assert!(status.contains("holdfast_controller is Holdfast's own"), "{status}");
    assert!(!status.contains("unprotected"), "{status}");
}

#[test]
fn v23_nothing_stays_paused_when_compose_stops_or_something_kills_the_agent() {
    require_engine!();
    if !has_compose() {
        return;
    }
    let machine = Machine::set_up("holdfast apply");
    let engine = &machine.contained.engine;

    // Killed, as by the kernel for want of memory: nothing starts it again by itself.
    machine.halt_while_paused();
    machine.run("cd deploy; docker kill \"$(docker-compose ps -q agent)\"");
    assert_eq!(engine.state("web"), "paused");
    machine.run(&machine.block("run --rm agent resume"));
    assert_eq!(engine.state("web"), "running");

    // Told to end: it has longer than Docker's ten seconds to resume.
    machine.halt_while_paused();
    let agent = machine.run("cd deploy; docker-compose ps -q agent");
    let mut down = machine.contained.shell("cd deploy; docker-compose down").spawn().expect("it starts");
    std::thread::sleep(Duration::from_secs(14));
    engine.docker(["kill", "--signal", "CONT", &agent]);
    assert!(down.wait().expect("it ends").success());
    assert_eq!(engine.state("web"), "running");
    assert!(!engine.has_container(&agent));
    for volume in ["holdfast_controller", "holdfast_agent", "web_data"] {
        assert!(engine.has_volume(volume), "{volume}");
    }
}

#[test]
fn v22_an_agent_in_a_container_reads_no_directory_of_its_own_image() {
    require_engine!();
    if !has_compose() {
        return;
    }
    let machine = Machine::set_up("up -d agent");
    let name = machine.run("hostname");
    let (mounted, elsewhere) =
        (machine.contained.dir().join("mounted"), machine.contained.dir().join("elsewhere"));
    for directory in [&mounted, &elsewhere] {
        std::fs::create_dir(directory).unwrap();
        std::fs::write(directory.join("file"), "of the host").unwrap();
    }
    let allow = format!(
        "cd deploy; docker-compose stop agent; docker-compose exec -T controller holdfast host token {name} | docker-compose run --rm -T agent join - --allow backup,restore,/etc,/mnt,{}",
        machine.contained.dir().display()
    );
    machine.run(&allow);
    machine.recreate_agent(&format!(
        "    volumes:\n      - {0}:{0}\n      - {1}:/mnt/data\n    labels:\n      again: \"1\"\n",
        mounted.display(),
        elsewhere.display()
    ));
    let backup = |directory: &str| {
        let command = format!(
            "cd deploy; docker-compose exec -T controller holdfast backup run --host {name} --directory {directory} 2>&1"
        );
        try_run(&mut machine.contained.shell(&command))
    };
    backup(mounted.to_str().unwrap()).expect("a directory of the host");
    let refused = backup("/etc").expect_err("its own image's");
    assert!(refused.contains("-v /etc:/etc:rslave"), "{refused}");
    let refused = backup("/mnt/data").expect_err("another path on the host");
    assert!(refused.contains(&format!("-v {0}:{0}:rslave", elsewhere.display())), "{refused}");
    let refused = backup(elsewhere.to_str().unwrap()).expect_err("it is not there");
    assert!(refused.contains(&format!("-v {0}:{0}:rslave", elsewhere.display())), "{refused}");

    let restore = format!(
        "cd deploy; docker-compose exec -T controller holdfast restore files {}@latest --host {name} --to /etc/restored 2>&1",
        mounted.display()
    );
    let refused = try_run(&mut machine.contained.shell(&restore)).expect_err("into its own image");
    assert!(refused.contains("-v /etc:/etc:rslave"), "{refused}");
}

#[test]
fn the_image_is_built_of_what_a_build_needs_and_no_more() {
    require_engine!();
    let contained = Contained::start();
    let said = run(&mut contained.shell("docker build -t holdfast -f deploy/Dockerfile ."));
    let sent = said.lines().find(|line| line.contains("Sending build context")).expect("a classic build");
    // The target folder alone has gigabytes; `.dockerignore` leaves it out.
    let megabytes = sent
        .trim_end()
        .rsplit(' ')
        .find_map(|word| word.strip_suffix("MB"))
        .and_then(|text| text.parse::<f64>().ok());
    assert!(megabytes.is_some_and(|sent| sent < 20.0) || sent.contains("kB"), "{sent}");
    let owner = ["run", "--rm", "holdfast", "stat", "-c", "%u:%g", "/var/lib/holdfast-controller"];
    assert_eq!(contained.engine.docker(owner), "10001:10001");
    assert!(contained.engine.docker(["run", "--rm", IMAGE, "true"]).is_empty());
}

/// A volume driver that mounts a volume only while somebody uses it: the
/// plugin protocol of the Engine, at the socket named first, its volumes below
/// the directory named second. With a third word they are there all the time.
pub(crate) const DRIVER: &str = r#"
import http.server, json, os, socketserver, subprocess, sys
root, mounts = sys.argv[2], len(sys.argv) < 4
class Driver(http.server.BaseHTTPRequestHandler):
    address_string = lambda self: "engine"
    log_message = lambda self, *words: None
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        call, name = self.path.split(".")[-1], asked.get("Name")
        path, answer = os.path.join(root, name or "none"), {"Err": ""}
        if self.path == "/Plugin.Activate": answer = {"Implements": ["VolumeDriver"]}
        elif call == "Capabilities": answer = {"Capabilities": {"Scope": "local"}}
        elif call == "Create": os.makedirs(path, exist_ok=True)
        elif call == "List": answer["Volumes"] = [{"Name": one} for one in os.listdir(root)]
        elif call == "Get":
            if os.path.isdir(path): answer["Volume"] = {"Name": name, "Mountpoint": path}
            else: answer["Err"] = "no such volume"
        elif call in ("Mount", "Path"): answer["Mountpoint"] = path
        if call == "Mount" and mounts:
            subprocess.check_call(["mount", "-t", "tmpfs", "tmpfs", path])
            open(os.path.join(path, "precious"), "w").write("data")
        if call == "Unmount" and mounts: subprocess.call(["umount", "-l", path])
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
socketserver.ThreadingUnixStreamServer(sys.argv[1], Driver).serve_forever()
"#;

/// A driver of its own, taken down when dropped.
struct VolumeDriver {
    name: String,
    socket: std::path::PathBuf,
    _process: Process,
}

impl VolumeDriver {
    fn start(contained: &Contained) -> Self {
        let name = format!("hfe{:08x}", std::process::id());
        let plugins = std::path::Path::new("/run/docker/plugins");
        std::fs::create_dir_all(plugins).unwrap();
        let socket = plugins.join(format!("{name}.sock"));
        let _ = std::fs::remove_file(&socket);
        let root = contained.dir().join("data/driver");
        std::fs::create_dir(&root).unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", DRIVER]).arg(&socket).arg(root);
        let process = Process::start("volume driver", &command, &contained.dir().join("driver.log"));
        wait::until_true("the volume driver", 30, || socket.exists());
        Self { name, socket, _process: process }
    }
}

impl Drop for VolumeDriver {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[test]
fn v22_an_agent_in_a_container_reads_volumes_of_other_drivers_with_the_hosts_processes() {
    require_engine!();
    let contained = Contained::start();
    run(&mut contained.shell("docker build -q -t holdfast -f deploy/Dockerfile ."));
    let driver = VolumeDriver::start(&contained);
    contained.engine.docker(["volume", "create", "--driver", &driver.name, "elsewhere"]);
    let inspect = |more: &str| {
        let dir = contained.dir().display();
        let agent = format!(
            "docker rm -f agent >/dev/null 2>&1 || true
             docker run -d --name agent {more} --network host --cap-add SYS_ADMIN -v {dir}/docker.sock:/var/run/docker.sock \
             -v {dir}/data:{dir}/data:rslave -v {dir}/state:/var/lib/holdfast-agent -v {dir}/run:/run/holdfast \
             --entrypoint /usr/bin/holdfast-agent holdfast run
             until docker exec agent holdfast --socket /run/holdfast/agent.sock volume ls; do sleep 0.2; done >/dev/null 2>&1"
        );
        run(&mut contained.shell(&agent));
        let inspect = "docker exec agent holdfast --socket /run/holdfast/agent.sock volume inspect elsewhere --usage -o json 2>&1";
        try_run(&mut contained.shell(inspect))
    };
    let refused = inspect("").expect_err("what it reads cannot be compared");
    assert!(refused.contains("--pid host") && refused.contains(&driver.name), "{refused}");
    let read = inspect("--pid host").expect("read through a holder");
    let volume: Value = serde_json::from_str(&read).expect("JSON");
    assert_eq!(volume["entries"], 1, "{volume}");
}
