//! The new container starts, and may write to the data from here on.

use crate::clone;
use crate::failpoint::failpoint;
use crate::resume::blocking;
use crate::spec::no_restart;
use crate::upgrade::UpgradeError;
use crate::upgrade::error::DataError;
use crate::upgrade::members::look;
use crate::upgrade::record::{Member, Rollback, State};
use crate::upgrade::run::UpgradeRun;

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    let last = run.record.members.len() - 1;
    run.start_new(last).await
}

/// The data as it was at the stop, with nobody on it. On disk is then that
/// this is done: a later attempt must not stop again what runs by then.
pub(super) async fn undo(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    let Some(rollback) = run.record.rollback().filter(|rollback| !rollback.data_is_back) else {
        return Ok(());
    };
    // Data that no new container could have written to is as it was, and stays.
    let exchange = rollback.requested || run.record.was_started();
    if exchange {
        add_external_writers(run).await?;
    }
    for member in run.record.members.clone() {
        end_new(run, &member, exchange).await?;
    }
    if exchange {
        put_data_back(run).await?;
        failpoint("agent.upgrade.data-exchanged");
    }
    // That the data is back is on disk before any old container is started on it.
    run.record.set_state(State::RollingBack(Rollback { data_is_back: true, ..rollback }));
    run.save().await
}

/// Whoever else came to use the data is stopped meanwhile, as a member is: it
/// would go on writing to what is thrown away.
async fn add_external_writers(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    for writer in run.external_writers().await? {
        let inspected = run.context.engine.inspect_container_json(&writer.id).await?;
        let removed = if writer.auto_remove { ", and the Engine removes it, as it was told to" } else { "" };
        let text =
            format!("`{}` uses the data that goes back: it is quiesced meanwhile{removed}", writer.name);
        let member = Member {
            id: writer.id.clone(),
            name: writer.name.clone(),
            was_running: true,
            restart_policy: inspected["HostConfig"]["RestartPolicy"].clone(),
            touched: true,
            recreation: None,
            former_ids: Vec::new(),
        };
        run.record.members.insert(0, member);
        // What has to be undone is on disk before it is done.
        run.note(text).await?;
        run.set_policy(&writer.id, &no_restart()).await?;
    }
    Ok(())
}

/// Nobody may use the data while it is exchanged: neither what was recreated,
/// nor a dependent that runs again already, nor the old one, should somebody
/// have started it. Without restart policies first: an Engine that restarts in
/// the middle would start them on data that is not theirs.
async fn end_new(run: &UpgradeRun<'_>, member: &Member, exchange: bool) -> Result<(), UpgradeError> {
    let old = if exchange { look(run, &member.id).await? } else { None };
    for container in run.new_of(member).await?.into_iter().chain(old) {
        run.set_policy(&container.id, &no_restart()).await?;
        if container.state.is_live() {
            run.context.engine.stop_container(&container, None).await?;
        }
    }
    Ok(())
}

/// Whether an exchange has happened is read from the trees themselves.
async fn put_data_back(run: &UpgradeRun<'_>) -> Result<(), UpgradeError> {
    for source in &run.record.sources {
        let Some(identities) = source.identities.clone() else { continue };
        let (root, clone) = (source.path.clone(), source.clone.clone());
        // By identity: after a crash the two may be exchanged already, and are not exchanged twice.
        let put = blocking(move || clone::put_back(&root, &clone, identities.original, identities.clone));
        put.await.map_err(DataError::NotExchanged)?;
    }
    Ok(())
}
