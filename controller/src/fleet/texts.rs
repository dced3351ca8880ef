//! Texts in what an agent reports, cut before they are written down anywhere.

use holdfast_proto::v1::restore_event::Event as Restore;
use holdfast_proto::v1::snapshot_event::Event as Snapshot;
use holdfast_proto::v1::upgrade_event::Event as Upgraded;
use holdfast_proto::v1::{
    ContainerQuiesced, RestoreEvent, SnapshotEvent, SourceFinished, Upgrade, UpgradeEvent, UpgradeFinished,
};

use crate::limits::clip;

/// Lines kept of one list of problems or differences.
const LINES: usize = 100;

/// Longest name of a container that is kept, and longest word about it, bytes.
const NAME: usize = 256;

/// Longest text about one container, bytes: there may be hundreds in one row.
const PROBLEM: usize = 1 << 10;

/// The same with no text longer than one may be.
pub(super) fn cut_snapshot(mut event: SnapshotEvent) -> SnapshotEvent {
    match &mut event.event {
        Some(Snapshot::Source(finished)) => cut_source(finished),
        Some(Snapshot::Quiesced(quiesced)) => cut_quiesced(quiesced),
        Some(Snapshot::Ended(ended)) => clip_all([&mut ended.error_code, &mut ended.error]),
        Some(Snapshot::Progress(_)) | None => {}
    }
    event
}

/// The same with no text longer than one may be.
pub(super) fn cut_restore(mut event: RestoreEvent) -> RestoreEvent {
    if let Some(Restore::Finished(finished)) = &mut event.event {
        clip_all([&mut finished.error_code, &mut finished.error]);
        cut_lines(&mut finished.difference_list);
        cut_lines(&mut finished.left_out_list);
        cut_lines(&mut finished.lost_list);
    }
    event
}

/// The same with no text longer than one may be.
pub(super) fn cut_upgrade(mut event: UpgradeEvent) -> UpgradeEvent {
    match &mut event.event {
        Some(Upgraded::Step(step)) => clip(&mut step.text),
        Some(Upgraded::Finished(finished)) => cut_finished(finished),
        Some(Upgraded::Stopped(_)) | None => {}
    }
    event
}

fn cut_source(finished: &mut SourceFinished) {
    clip_all([&mut finished.snapshot_id, &mut finished.error_code, &mut finished.error]);
    cut_lines(&mut finished.problems);
}

fn cut_quiesced(quiesced: &mut ContainerQuiesced) {
    // Every field is named: a text that is added to the message cannot go uncut.
    let ContainerQuiesced { container_id, container_name, how, problem, downtime_ms: _, resumed: _ } =
        quiesced;
    for (text, most) in [(container_id, NAME), (container_name, NAME), (how, NAME), (problem, PROBLEM)] {
        text.truncate(text.floor_char_boundary(most));
    }
}

fn cut_finished(finished: &mut UpgradeFinished) {
    clip_all([&mut finished.error_code, &mut finished.error]);
    let Some(upgrade) = &mut finished.upgrade else { return };
    let Upgrade { container_name, from_image, to_image, error_code, error, steps, .. } = upgrade;
    clip_all([container_name, from_image, to_image, error_code, error]);
    // The steps go into the job's row: their number has a bound, as their length has.
    steps.truncate(LINES);
    steps.iter_mut().for_each(|step| clip(&mut step.text));
}

fn cut_lines(lines: &mut Vec<String>) {
    lines.truncate(LINES);
    lines.iter_mut().for_each(clip);
}

fn clip_all<'t>(texts: impl IntoIterator<Item = &'t mut String>) {
    texts.into_iter().for_each(clip);
}

#[cfg(test)]
mod tests {
    use holdfast_proto::v1::{RestoreFinished, UpgradeStep};
    use prost::Message as _;

    use super::*;
    use crate::limits::TEXT;

    #[test]
    fn v04_no_text_of_an_event_is_longer_than_one_may_be() {
        let long = || "x".repeat(1 << 20);
        let finished = SourceFinished {
            problems: vec![long(); 1000],
            error: long(),
            error_code: long(),
            snapshot_id: long(),
            ..SourceFinished::default()
        };
        let quiesced = ContainerQuiesced {
            container_id: long(),
            container_name: long(),
            how: long(),
            problem: long(),
            ..ContainerQuiesced::default()
        };
        for event in [Snapshot::Source(finished), Snapshot::Quiesced(quiesced)] {
            let event = SnapshotEvent { event: Some(event), ..SnapshotEvent::default() };
            let event = cut_snapshot(event);
            assert!(event.encoded_len() <= (LINES + 4) * (TEXT + 8), "{}", event.encoded_len());
        }
        let upgrade = Upgrade {
            steps: vec![UpgradeStep { text: long(), ..UpgradeStep::default() }; 1000],
            error: long(),
            ..Upgrade::default()
        };
        let finished =
            UpgradeFinished { error: long(), upgrade: Some(upgrade), ..UpgradeFinished::default() };
        let event = UpgradeEvent { event: Some(Upgraded::Finished(finished)), ..UpgradeEvent::default() };
        let event = cut_upgrade(event);
        assert!(event.encoded_len() <= (LINES + 4) * (TEXT + 16), "{}", event.encoded_len());
    }

    #[test]
    fn v04_no_text_of_the_end_of_a_restore_is_longer_than_one_may_be() {
        let long = || "x".repeat(1 << 20);
        let finished = RestoreFinished {
            error_code: long(),
            error: long(),
            difference_list: vec![long(); 200],
            left_out_list: vec![long(); 200],
            lost_list: vec![long(); 200],
            ..RestoreFinished::default()
        };
        let event = RestoreEvent { event: Some(Restore::Finished(finished)), ..RestoreEvent::default() };
        let event = cut_restore(event);
        assert!(event.encoded_len() <= (3 * LINES + 4) * (TEXT + 8), "{}", event.encoded_len());
        let Some(Restore::Finished(finished)) = event.event else { panic!("another event") };
        for list in [&finished.difference_list, &finished.left_out_list, &finished.lost_list] {
            assert_eq!(list.len(), LINES);
        }
    }
}
