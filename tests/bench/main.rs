//! The benchmark: Holdfast and restic, side by side, on the same data and the
//! same S3 server.
//!
//! A figure counts as a ratio of two tools in one run. The tools take turns
//! on each step, in an order that alternates; a change to the data is made
//! once and then backed up by each. What is restored is compared with the
//! source by rsync before a figure is believed.
//!
//! Everything lies below TMPDIR: make that a tmpfs, or the disk is measured.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to people")]

mod data;
mod direct;
mod measure;
mod mutate;
mod proxy;
mod report;
mod restic;
mod stack;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use e2e::garage::{self, Garage};
use holdfast_archive::keys::Prefix;
use holdfast_archive::store::{Location, S3Options, Store, StoreConfig};

use data::DataSet;
use direct::Direct;
use measure::Cost;
use mutate::Mutator;
use proxy::Proxy;
use report::Step;
use restic::Restic;
use stack::Stack;

#[derive(Parser)]
#[command(about = "Measures Holdfast beside restic")]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Make a data set.
    Make {
        #[arg(long, value_enum, default_value = "mix")]
        set: DataSet,
        #[arg(long, default_value_t = 1024)]
        size_mib: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        root: PathBuf,
    },
    /// Run all steps and print the table.
    Run(RunArguments),
    /// One step of `direct`, as a process to be measured.
    #[command(hide = true)]
    Worker {
        #[command(subcommand)]
        work: direct::Work,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    #[arg(long, value_enum, default_value = "mix")]
    set: DataSet,
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "stack,direct,restic")]
    tools: Vec<ToolName>,
    /// Changes made between backups, in this order.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none,touch,files100,pages1")]
    mutators: Vec<Mutator>,
    /// Each request to the store is held for so long.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// JSON lines are appended here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A section with the table is appended here.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ToolName {
    /// Holdfast's controller, agent and command line.
    Stack,
    /// Holdfast's capture and restore straight on the store.
    Direct,
    Restic,
}

enum Tool {
    Stack(Box<Stack>),
    Direct(Direct),
    Restic(Restic),
}

impl Tool {
    fn name(&self) -> &'static str {
        match self {
            Self::Stack(_) => "holdfast",
            Self::Direct(_) => "holdfast direct",
            Self::Restic(_) => "restic",
        }
    }

    fn prefix(&self) -> &'static str {
        match self {
            Self::Stack(_) => Stack::PREFIX,
            Self::Direct(_) => Direct::PREFIX,
            Self::Restic(_) => Restic::PREFIX,
        }
    }

    fn init(&self) -> Result<()> {
        match self {
            Self::Stack(_) => {}
            Self::Direct(tool) => drop(tool.init()?),
            Self::Restic(tool) => drop(tool.init()?),
        }
        Ok(())
    }

    fn backup(&self) -> Result<Cost> {
        match self {
            Self::Stack(tool) => tool.backup(),
            Self::Direct(tool) => tool.backup(),
            Self::Restic(tool) => tool.backup(),
        }
    }

    fn restore(&self) -> Result<(Cost, PathBuf)> {
        match self {
            Self::Stack(tool) => tool.restore(),
            Self::Direct(tool) => tool.restore(),
            Self::Restic(tool) => tool.restore(),
        }
    }

    /// `None` where the tool cannot give a single file.
    fn one_file(&self, path: &Path) -> Result<Option<(Cost, usize)>> {
        match self {
            Self::Stack(tool) => tool.one_file(path).map(Some),
            Self::Direct(_) => Ok(None),
            Self::Restic(tool) => tool.one_file(path).map(Some),
        }
    }
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        What::Make { set, size_mib, seed, root } => {
            let made = data::make(set, size_mib << 20, seed, &root)?;
            println!("{}", serde_json::to_string(&made)?);
            Ok(())
        }
        What::Run(arguments) => run(&arguments),
        What::Worker { work } => direct::work(work),
    }
}

fn run(arguments: &RunArguments) -> Result<()> {
    ensure!(!arguments.tools.is_empty(), "no tool is left to measure");
    let mut steps = Vec::new();
    let mut head = String::new();
    for round in 0..arguments.rounds {
        let mut bench = Bench::start(arguments, round)?;
        head = bench.head(arguments)?;
        bench.all_steps(arguments)?;
        steps.append(&mut bench.steps);
    }
    let text = format!("{head}\n{}", report::table(&steps));
    println!("{text}");
    if let Some(path) = &arguments.json {
        let mut file = File::options().create(true).append(true).open(path)?;
        for step in &steps {
            writeln!(file, "{}", serde_json::to_string(step)?)?;
        }
    }
    if let Some(path) = &arguments.markdown {
        writeln!(File::options().create(true).append(true).open(path)?, "{text}")?;
    }
    Ok(())
}

/// One round: a server, the data, the tools.
struct Bench {
    round: u32,
    // Tools first: they are taken down before what they talk to.
    tools: Vec<Tool>,
    proxy: Proxy,
    stores: Vec<(Store, u64)>,
    runtime: tokio::runtime::Runtime,
    made: data::Made,
    source: PathBuf,
    steps: Vec<Step>,
    at: usize,
    _credentials: tempfile::NamedTempFile,
    _data: tempfile::TempDir,
    _garage: Garage,
}

impl Bench {
    fn start(arguments: &RunArguments, round: u32) -> Result<Self> {
        let garage = Garage::start(garage::binary().map_err(anyhow::Error::msg)?);
        let proxy = Proxy::start(&garage.endpoint, Duration::from_millis(arguments.latency_ms))?;
        let data = tempfile::TempDir::with_prefix("hfb-data")?;
        let mut source = data.path().join("data");
        let mut tools = Vec::new();
        if arguments.tools.contains(&ToolName::Stack) {
            let stack = Stack::start(&garage, &proxy.endpoint());
            source = stack.source();
            tools.push(Tool::Stack(Box::new(stack)));
        }
        if arguments.tools.contains(&ToolName::Direct) {
            tools.push(Tool::Direct(Direct::new(&garage, &proxy.endpoint(), &source)?));
        }
        if arguments.tools.contains(&ToolName::Restic) {
            tools.push(Tool::Restic(Restic::new(&garage, &proxy.endpoint(), &source)?));
        }
        let made = data::make(arguments.set, arguments.size_mib << 20, arguments.seed, &source)?;
        let credentials = tempfile::NamedTempFile::new()?;
        std::fs::write(credentials.path(), format!("{}\n{}\n", garage.access_key, garage.secret_key))?;
        let stores = tools
            .iter()
            .map(|tool| {
                let store = Store::open(&StoreConfig {
                    location: Location::S3 {
                        bucket: garage.bucket.clone(),
                        prefix: tool.prefix().to_owned(),
                    },
                    s3: S3Options {
                        endpoint: Some(garage.endpoint.clone()),
                        region: Some(Garage::REGION.to_owned()),
                        credentials_file: Some(credentials.path().to_owned()),
                        ..S3Options::default()
                    },
                })?;
                Ok((store, 0))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            round,
            tools,
            proxy,
            stores,
            runtime: tokio::runtime::Runtime::new()?,
            made,
            source,
            steps: Vec::new(),
            at: 0,
            _credentials: credentials,
            _data: data,
            _garage: garage,
        })
    }

    /// What was measured, where and with what.
    fn head(&self, arguments: &RunArguments) -> Result<String> {
        let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown CPU");
        let cores = std::thread::available_parallelism()?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let profile = if cfg!(debug_assertions) { "DEBUG build: no figures" } else { "release build" };
        let (hash, compress) = calibration();
        Ok(format!(
            "\n## {:?}, {:.0} MB in {} files, seed {}, {} round(s), +{} ms a request\n\n\
             Holdfast {} ({profile}), {}; Garage {} on loopback; {cores} cores of {cpu}, Linux {}. \
             All on {}. Calibration: BLAKE3 {hash:.0} MB/s, level 3 {compress:.0} MB/s on one thread. \
             Mutators append 100 lines to files, touch all files or write 40 bytes in 1 % of 8 KiB pages; \
             restored trees were compared with rsync -aHAXS --checksum.\n",
            arguments.set,
            self.made.bytes as f64 / 1e6,
            self.made.files,
            arguments.seed,
            arguments.rounds,
            arguments.latency_ms,
            env!("CARGO_PKG_VERSION"),
            Restic::version().unwrap_or_else(|_| "no restic".to_owned()),
            garage::VERSION,
            kernel.trim(),
            std::env::temp_dir().display(),
        ))
    }

    fn all_steps(&mut self, arguments: &RunArguments) -> Result<()> {
        for (tool, (store, bytes)) in self.tools.iter().zip(&mut self.stores) {
            tool.init()?;
            *bytes = self.runtime.block_on(bucket_bytes(store))?;
        }
        self.turns("first", Tool::backup)?;
        for mutator in &arguments.mutators {
            mutator.apply(&self.source, arguments.seed + u64::from(self.round))?;
            let name =
                mutator.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            self.turns(if name == "none" { "no change" } else { &name }, Tool::backup)?;
        }
        let source = self.source.clone();
        self.turns("restore", move |tool| {
            let (cost, tree) = tool.restore()?;
            let differences = e2e::tree::rsync_differences(&source, &tree);
            ensure!(differences.is_empty(), "{} restored something else:\n{differences}", tool.name());
            Ok(cost)
        })?;
        let Some(file) = a_small_file(&self.source)? else { return Ok(()) };
        let len = usize::try_from(self.source.join(&file).metadata()?.len())?;
        if self.tools.iter().any(|tool| !matches!(tool, Tool::Direct(_))) {
            self.tools.retain(|tool| !matches!(tool, Tool::Direct(_)));
            self.stores = self.matching_stores();
            self.turns("one file", move |tool| match tool.one_file(&file)? {
                Some((cost, read)) if read == len => Ok(cost),
                Some((_, read)) => bail!("{} gave {read} of {len} bytes", tool.name()),
                None => Ok(Cost::default()),
            })?;
        }
        Ok(())
    }

    fn matching_stores(&self) -> Vec<(Store, u64)> {
        let of = |tool: &Tool| {
            self.stores
                .iter()
                .find(|(store, _)| store.location().contains(&format!("/{} ", tool.prefix())))
                .cloned()
        };
        self.tools.iter().filter_map(of).collect()
    }

    /// One step of every tool; who begins alternates.
    fn turns(&mut self, name: &str, step: impl Fn(&Tool) -> Result<Cost>) -> Result<()> {
        let mut order: Vec<usize> = (0..self.tools.len()).collect();
        if (self.at + self.round as usize) % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let tool = &self.tools[index];
            self.proxy.take();
            let cost = step(tool).with_context(|| format!("{name} by {}", tool.name()))?;
            let traffic = self.proxy.take();
            let (store, before) = &mut self.stores[index];
            let bytes = self.runtime.block_on(bucket_bytes(store))?;
            let added_bytes = i64::try_from(bytes)? - i64::try_from(*before)?;
            *before = bytes;
            eprintln!("round {} {name} {}: {:.2} s", self.round, tool.name(), cost.wall_s);
            self.steps.push(Step {
                round: self.round,
                at: self.at,
                step: name.to_owned(),
                tool: tool.name(),
                cost,
                traffic,
                bucket_bytes: bytes,
                added_bytes,
            });
        }
        self.at += 1;
        Ok(())
    }
}

async fn bucket_bytes(store: &Store) -> Result<u64> {
    let (mut total, mut after) = (0, None);
    loop {
        let page = store.list(Prefix::All, after.as_deref()).await?;
        total += page.items.iter().map(|item| item.len).sum::<u64>();
        after = page.next;
        if after.is_none() {
            return Ok(total);
        }
    }
}

/// The first text file, relative to the root.
fn a_small_file(root: &Path) -> Result<Option<PathBuf>> {
    let output =
        Command::new("find").arg(root).args(["-name", "*.js", "-size", "+1k", "-print", "-quit"]).output()?;
    let path = PathBuf::from(String::from_utf8(output.stdout)?.trim_end());
    Ok(path.strip_prefix(root).ok().map(Path::to_owned))
}

/// MB/s of hashing and of compressing, one thread, so that runs can be told
/// apart by how fast the machine was.
fn calibration() -> (f64, f64) {
    let text: Vec<u8> =
        (0u32..1 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).map(|b| b & 0x1f).collect();
    let rate = |work: &dyn Fn()| {
        let began = Instant::now();
        let times = 8;
        (0..times).for_each(|_| work());
        f64::from(times) * text.len() as f64 / 1e6 / began.elapsed().as_secs_f64()
    };
    let hash = rate(&|| {
        std::hint::black_box(holdfast_archive::frame::frame_id(&text));
    });
    let compress = rate(&|| {
        std::hint::black_box(holdfast_archive::frame::encode(
            holdfast_archive::pack_io::FrameKind::Data,
            &text,
            3,
        ));
    });
    (hash, compress)
}
