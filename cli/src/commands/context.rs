//! `holdfast context`

use std::path::Path;

use serde::Serialize;

use super::Env;
use crate::args::{ContextCommand, GlobalArgs};
use crate::config::{Config, Context};
use crate::error::{CliError, Exit, Result};
use crate::output::{self, Lines, Render, Rows};

#[derive(Serialize)]
struct ContextRow {
    name: String,
    current: bool,
    address: String,
    ca_file: String,
    token_file: String,
}

#[derive(Serialize)]
#[serde(transparent)]
struct ContextList(Vec<ContextRow>);

impl Render for ContextList {
    fn lines(&self) -> Lines {
        let mut rows = Rows::new(
            &["", "NAME", "CONTROLLER", "CA FILE", "TOKEN FILE"],
            "no contexts; add one with: holdfast context add NAME ...",
        );
        for row in &self.0 {
            let current = if row.current { "*" } else { "" };
            rows.push([current, &row.name, &row.address, &row.ca_file, &row.token_file]);
        }
        rows.finish()
    }
}

pub(super) fn run(env: &Env, command: ContextCommand) -> Result<Exit> {
    let mut config = Config::load()?;
    match command {
        ContextCommand::Ls => {
            let row = |(name, context): (&String, &Context)| ContextRow {
                name: name.clone(),
                current: config.current.as_ref() == Some(name),
                address: context.address.clone(),
                ca_file: context.ca_file.display().to_string(),
                token_file: context.token_file.display().to_string(),
            };
            output::emit(env.format, &ContextList(config.contexts.iter().map(row).collect()));
            return Ok(Exit::Done);
        }
        ContextCommand::Add { name } => {
            let context = given(&env.global, &name)?;
            for file in [&context.ca_file, &context.token_file] {
                // Only a warning: a context may be made before the files are copied here.
                if !file.exists() {
                    output::note(format!("warning: {} is not there yet", file.display()));
                }
            }
            config.contexts.insert(name.clone(), context);
            // The first context is the current one; later ones are chosen.
            config.current.get_or_insert(name);
        }
        ContextCommand::Use { name } => {
            if !config.contexts.contains_key(&name) {
                return Err(config.unknown(&name));
            }
            config.current = Some(name);
        }
        ContextCommand::Rm { name } => {
            if config.contexts.remove(&name).is_none() {
                return Err(config.unknown(&name));
            }
            // Nothing is current then: no other context is chosen in silence.
            config.current.take_if(|current| *current == name);
        }
    }
    config.save()?;
    Ok(Exit::Done)
}

/// The context that the options describe. It is used from other directories,
/// so its paths are made absolute.
fn given(global: &GlobalArgs, name: &str) -> Result<Context> {
    let (Some(address), Some(ca_file), Some(token_file)) =
        (&global.controller, &global.ca_file, &global.token_file)
    else {
        return Err(CliError::usage("a context needs --controller, --ca-file and --token-file").hint(
            format!(
                "holdfast context add {name} --controller HOST:7443 --ca-file ca.crt --token-file TOKEN; \
             both files are made by holdfast-controller init, in its state directory"
            ),
        ));
    };
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| CliError::io(&path.display().to_string(), &error))
    };
    Ok(Context { address: address.clone(), ca_file: absolute(ca_file)?, token_file: absolute(token_file)? })
}
