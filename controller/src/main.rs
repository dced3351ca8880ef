//! `holdfast-controller`: see `args` for what it can be told to do.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use holdfast_archive::keys::RecoveryFile;
use holdfast_archive::process::guard_memory;
use holdfast_archive::repository::{hash, text};
use holdfast_archive::store::Store;
use holdfast_archive::text::{causes, printable, printable_lines};
use holdfast_controller::api::audit::{self, Verified};
use holdfast_controller::api::hosts::Addresses;
use holdfast_controller::app::{App, raise_open_files};
use holdfast_controller::args::{
    AuditCommand, Cli, Command, InitArgs, ReconcileArgs, RunArgs, StateArgs, TokenCommand, TokenCreateArgs,
    TokenRevokeArgs, VerifyArgs,
};
use holdfast_controller::catalog::Catalog;
use holdfast_controller::catalog::audit::{AuditCheck, AuditEntry, Book, Outcome};
use holdfast_controller::clock::now_ms;
use holdfast_controller::config::Config;
use holdfast_controller::exit::exit_of;
use holdfast_controller::init::{self, ADMIN_TOKEN_FILE, Grant};
use holdfast_controller::model::caller::HostScope;
use holdfast_controller::repository::{Rebuilt, Repository, Settings, Verified as Checked};
use holdfast_controller::succession::{self, TakenOver};
use holdfast_controller::{logging, setup};
use holdfast_proto::Exit;
use sd_notify::NotifyState;
use secrecy::ExposeSecret as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.log_format);
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::warn!("a TLS provider was installed before");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(command(cli.command)),
        Err(error) => Err(error.into()),
    };
    done.unwrap_or_else(|error| {
        // Standard error may be closed; then nobody reads this anyway.
        writeln!(std::io::stderr(), "error: {}", printable(&causes(error.as_ref()))).ok();
        exit_of(error.as_ref()).into()
    })
}

async fn command(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(args) => initialise(args).await,
        Command::Rebuild(args) => rebuild(args).await,
        Command::Reconcile(args) => reconcile(args).await,
        Command::Verify(args) => verify(args).await,
        Command::Run(args) => run(args).await,
        Command::Token(TokenCommand::Create(args)) => create_token(args).await,
        Command::Token(TokenCommand::Ls(args)) => list_tokens(args).await,
        Command::Token(TokenCommand::Revoke(args)) => revoke_token(args).await,
        Command::Audit(AuditCommand::Verify(args)) => verify_audit(args).await,
    }
}

async fn rebuild(args: InitArgs) -> anyhow::Result<ExitCode> {
    // The CA key is in this process's memory.
    guard_memory();
    let dir = args.state.state_dir.clone();
    let config = setup::config_of(args)?;
    let (rebuilt, TakenOver { hosts, revoked, policies, notes }) = init::rebuild(&dir, &config).await?;
    say(&format!(
        "controller made in {dir} from {place}\nfirst token in {token}, role admin\n\
         next: holdfast-controller run --state-dir {dir}",
        dir = dir.display(),
        place = config.repository.location,
        token = dir.join(ADMIN_TOKEN_FILE).display(),
    ))?;
    say_needs(&dir, &config)?;
    if !hosts.is_empty() {
        say(&format!(
            "known again: {}; each has to join anew: holdfast host token HOST, then holdfast-agent join",
            printable(&hosts.join(", "))
        ))?;
    }
    if !revoked.is_empty() {
        say(&format!("of these, revoked or given up, and so they stay: {}", revoked.join(", ")))?;
    }
    if !policies.is_empty() {
        say(&format!(
            "policies, disabled until they are applied: {}; holdfast policy show POLICY > FILE, then holdfast apply -f FILE",
            printable(&policies.join(", "))
        ))?;
    }
    for note in &notes {
        say(&printable(note))?;
    }
    report(&rebuilt)
}

async fn reconcile(args: ReconcileArgs) -> anyhow::Result<ExitCode> {
    let dir = &args.state.state_dir;
    let app = App::open(dir, Config::read(dir)?).await?;
    if args.write_repo_json {
        let written = app.repository().write_info_again().await?;
        say(if written {
            "repo.json was written again"
        } else {
            "repo.json is whole: it was left as it is"
        })?;
    }
    note_lost_rows(&app).await?;
    let mut rebuilt = app.repository().reconcile(None, args.accept_loss).await?;
    rebuilt.notes.extend(succession::catch_up(app.catalog(), app.repository()).await?);
    report(&rebuilt)
}

/// Writes down what of the audit chain an older copy of the catalogue lacks:
/// from now on the bucket knows of this one's rows.
async fn note_lost_rows(app: &App) -> anyhow::Result<()> {
    let Some(mark) = app.repository().audit_mark().await.ok().flatten() else { return Ok(()) };
    let AuditCheck::Broken { number, reason, .. } = app.catalog().verify_audit(Some(&mark)).await? else {
        return Ok(());
    };
    let detail =
        format!("from row {number}: {reason}; the bucket knew of row {} with hash {}", mark.row, mark.chain);
    let entry = AuditEntry {
        at_ms: now_ms(),
        actor: "local",
        action: "reconcile",
        subject: "audit",
        outcome: Outcome::Ok,
        detail: &detail,
    };
    Ok(app.catalog().audit(&entry).await?)
}

fn report(rebuilt: &Rebuilt) -> anyhow::Result<ExitCode> {
    say(&format!("{} snapshots, {} packs, {} frames", rebuilt.snapshots, rebuilt.packs, rebuilt.frames))?;
    for note in &rebuilt.notes {
        say(&printable(note))?;
    }
    for loss in &rebuilt.losses {
        say(&printable(&format!("missing: {loss}")))?;
    }
    if !rebuilt.collection_off.is_empty() {
        say(&rebuilt.collection_off)?;
    }
    if rebuilt.unused_packs > 0 {
        let when = if rebuilt.collection_off.is_empty() { "collection deletes" } else { "giving up deletes" };
        say(&format!(
            "{when} {} packs that no snapshot reaches, {} bytes",
            rebuilt.unused_packs, rebuilt.unused_bytes
        ))?;
    }
    let sound = rebuilt.notes.is_empty() && rebuilt.losses.is_empty();
    Ok(if sound { ExitCode::SUCCESS } else { Exit::Damage.into() })
}

async fn verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    // Not the whole application: that is one at a time, and this may take hours.
    let config = Config::read(&args.state.state_dir)?;
    let store = Store::open(&config.repository)?;
    let repository = Repository::new(open_catalog(&args.state).await?, store, Settings::default());
    let checked = repository.verify(args.quick).await?;
    let sound = checked.is_sound();
    let Checked { report, unneeded, marked, unmarked, stored_again, recovery_written } = checked;
    for problem in &report.problems {
        say(&printable(&format!("{} {}: {}", problem.kind.name(), problem.object, problem.detail)))?;
        for snapshot in &problem.snapshots {
            say(&format!("  touches {snapshot}"))?;
        }
    }
    say(&format!(
        "{} snapshots, {} frames in {} packs, {} bytes read: {} problems",
        report.snapshots,
        report.frames,
        report.packs,
        report.bytes_read,
        report.problems.len()
    ))?;
    if !unneeded.is_empty() {
        say(&format!("{} of them cost nothing: no snapshot needs what is damaged there", unneeded.len()))?;
    }
    if marked > 0 {
        say(&format!("{marked} damaged frames are sent again by the next backups that need them"))?;
    }
    if stored_again > 0 {
        say(&format!("{stored_again} snapshots were stored again from the catalogue"))?;
    }
    if recovery_written > 0 {
        say(&format!("{recovery_written} files under RECOVERY/ were written again"))?;
    }
    for pack in &unmarked {
        say(&printable(&format!("damage could not be noted, verify again: {pack}")))?;
    }
    Ok(if sound { ExitCode::SUCCESS } else { Exit::Damage.into() })
}

async fn initialise(args: InitArgs) -> anyhow::Result<ExitCode> {
    // The CA key is in this process's memory.
    guard_memory();
    let dir = args.state.state_dir.clone();
    let config = setup::config_of(args)?;
    init::init(&dir, &config).await?;
    say(&format!(
        "controller made in {dir}\n\
         repository {place}: NOT encrypted, whoever can read it reads the data; encryption is not built yet\n\
         RECOVERY/recover.py in it reads it without Holdfast. Its SHA-256, to be kept outside the store and \
         compared before the file is run:\n  {recovery}\n\
         first token in {token}, role admin\n\
         next: holdfast-controller run --state-dir {dir}\n\
         then: holdfast context add NAME --controller {address} --ca-file {dir}/ca.crt --token-file {token}",
        dir = dir.display(),
        place = config.repository.location,
        recovery = hash(text(RecoveryFile::Script)),
        token = dir.join(ADMIN_TOKEN_FILE).display(),
        address = Addresses::new(config.addresses.clone(), config.listen)
            .for_tokens()
            .first()
            .cloned()
            .unwrap_or_default(),
    ))?;
    say_needs(&dir, &config)?;
    Ok(ExitCode::SUCCESS)
}

fn say_needs(state_dir: &Path, config: &Config) -> std::io::Result<()> {
    setup::unit_needs(state_dir, config).iter().try_for_each(|need| say(need))
}

async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    // The CA key is in this process's memory.
    guard_memory();
    let files = raise_open_files();
    tracing::info!(files, "open files this process may have");
    let dir = &args.state.state_dir;
    let config = Config::read(dir)?;
    let bound = App::open(dir, config).await?.bind(args.listen).await?;
    say(&format!("listening on {}", bound.address()))?;
    // What comes from here on is taken: systemd may start what needs this.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!(%error, "systemd could not be told that the controller can be reached");
    }
    bound.run(stop_on_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    let stopped = stop.clone();
    // Lives as long as the process does.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopped.cancel();
    });
    Ok(stop)
}

async fn open_catalog(args: &StateArgs) -> anyhow::Result<Catalog> {
    // What is wrong with the path is told before what is missing below it.
    Config::read(&args.state_dir)?;
    Ok(Catalog::open_in(&args.state_dir).await?)
}

async fn create_token(args: TokenCreateArgs) -> anyhow::Result<ExitCode> {
    let catalog = open_catalog(&args.state).await?;
    let grant = Grant {
        name: args.name.as_str(),
        role: args.role,
        hosts: HostScope(args.hosts.clone()),
        lifetime: args.expires,
    };
    let token = init::create_operator(&catalog, &grant, "local").await?;
    match &args.file {
        Some(path) => {
            init::write_secret(path, &token, false)?;
            say(&format!("token of `{}` written to {}", args.name, path.display()))?;
        }
        None => say(token.expose_secret())?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_tokens(args: StateArgs) -> anyhow::Result<ExitCode> {
    say(&format!("{:<24} {:<9} {:<8} {:<11} {:<11} HOSTS", "NAME", "ROLE", "STATE", "EXPIRES", "LAST USED"))?;
    let now = now_ms();
    for operator in open_catalog(&args).await?.operators().await? {
        let state = match operator.revoked_ms {
            Some(_) => "revoked",
            None if operator.has_expired(now) => "expired",
            None => "active",
        };
        let hosts =
            if operator.hosts.is_everything() { "all".to_owned() } else { operator.hosts.to_string() };
        say(&format!(
            "{:<24} {:<9} {state:<8} {:<11} {:<11} {hosts}",
            operator.name,
            operator.role.as_str(),
            day(operator.expires_ms),
            day(operator.last_used_ms),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A day in UTC.
fn day(ms: Option<i64>) -> String {
    let date = ms.and_then(chrono::DateTime::from_timestamp_millis);
    date.map_or_else(|| "never".to_owned(), |date| date.format("%Y-%m-%d").to_string())
}

async fn revoke_token(args: TokenRevokeArgs) -> anyhow::Result<ExitCode> {
    let catalog = open_catalog(&args.state).await?;
    let now = now_ms();
    let entry = AuditEntry {
        at_ms: now,
        actor: "local",
        action: "token revoke",
        subject: &format!("operator={}", args.name),
        outcome: Outcome::Allowed,
        detail: "",
    };
    catalog.audit(&entry).await?;
    if !catalog.revoke_operator(args.name.as_str(), now).await? {
        anyhow::bail!(
            "there is no active token of `{}`; `holdfast-controller token ls` shows them",
            args.name
        );
    }
    say(&format!("the token of `{}` is refused from now on", args.name))?;
    Ok(ExitCode::SUCCESS)
}

async fn verify_audit(args: StateArgs) -> anyhow::Result<ExitCode> {
    let catalog = open_catalog(&args).await?;
    let store = Store::open(&Config::read(&args.state_dir)?.repository)?;
    let repository = Repository::new(catalog.clone(), store, Settings::default());
    let Verified { check, bucket_row, bucket_problem } = audit::verify(&catalog, &repository).await?;
    if let Some(error) = &bucket_problem {
        say(&format!("not held against the bucket: {}", causes(error)))?;
    }
    match check {
        AuditCheck::Intact { rows } => {
            say(&format!("{rows} rows, none changed or missing; the bucket knows of row {bucket_row}"))?;
            Ok(bucket_problem.map_or(ExitCode::SUCCESS, |error| exit_of(&error).into()))
        }
        AuditCheck::Broken { book, number, reason } => {
            let of = if book == Book::Anonymous { " of the anonymous ones" } else { "" };
            say(&format!("row {number}{of}: {reason}; rows before it are as they were written"))?;
            Ok(Exit::Damage.into())
        }
    }
}

/// Names and problems in `text` may come from a host, or from a bucket that
/// somebody else writes to.
fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", printable_lines(text))?;
    out.flush()
}
