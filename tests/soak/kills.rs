//! Kills at random moments of everything Holdfast does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::book::{Book, What};
use crate::kill::Act;
use crate::scene::Scene;

/// In turns, the cheap ones more often.
const TURNS: [Act; 12] = [
    Act::Backup,
    Act::Upgrade,
    Act::Restore,
    Act::Backup,
    Act::Prune,
    Act::Rollback,
    Act::Restore,
    Act::Upgrade,
    Act::Backup,
    Act::Prune,
    Act::Restore,
    Act::Rebuild,
];

/// Until there are so many kills, or no time is left. A round in which
/// something does not hold is written down, and the next begins with a new
/// fleet.
///
/// # Errors
/// The book cannot be written.
pub(crate) fn run(book: &mut Book, kills: u64, end: Instant) -> Result<()> {
    let mut scene: Option<Scene> = None;
    let mut number = book.kills().0;
    while book.kills().1 < kills && Instant::now() < end {
        let act = TURNS[(number % TURNS.len() as u64) as usize];
        let victims = act.victims();
        let victim = victims[rand::random_range(0..victims.len())];
        let after = Duration::from_millis(rand::random_range(0..act.span().as_millis() as u64));
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            scene.get_or_insert_with(Scene::new).round(number, act, victim, after)
        }));
        let mut line = |killed, ended: String, violation| {
            let after_ms = after.as_millis() as u64;
            book.add(What::Kill { act, victim, after_ms, killed, ended }, violation)
        };
        match outcome {
            Ok(ended) => {
                println!(
                    "{number}: {victim:?} killed {after:?} into {act:?}: {} ({:.1} s)",
                    ended.job,
                    begun.elapsed().as_secs_f64()
                );
                line(ended.killed, ended.job, None)?;
            }
            Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned();
                let said = said.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                let said = said.unwrap_or_else(|| "a panic without words".to_owned());
                line(true, String::new(), Some(format!("{victim:?} killed {after:?} into {act:?}: {said}")))?;
                scene = None;
            }
        }
        number += 1;
    }
    Ok(())
}
