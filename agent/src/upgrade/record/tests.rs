use super::*;

/// A record with everything in it, as files of the first version have it.
const GOLDEN: &str = include_str!("golden/record-1.json");

/// Every state, the same.
const STATES: &str = include_str!("golden/states-1.json");

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_record_of_the_first_version_is_read_and_written_as_it_was() {
    let record: Record = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(serde_json::to_value(&record).unwrap(), json(GOLDEN));
    assert_eq!(record.target().name, "db");
    assert!(record.is_under_way() && record.was_started() && record.is_handed_over());
}

#[test]
fn every_state_has_the_text_of_the_first_version() {
    let states: Vec<State> = serde_json::from_str(STATES).unwrap();
    assert_eq!(serde_json::to_value(&states).unwrap(), json(STATES));
    let named: std::collections::HashSet<Phase> = states.iter().map(Phase::from).collect();
    let all = [
        Phase::Preparing,
        Phase::Stopping,
        Phase::Stopped,
        Phase::Switching,
        Phase::Gating,
        Phase::Committing,
        Phase::Committed,
        Phase::Finishing,
        Phase::Finished,
        Phase::RollingBack,
        Phase::RolledBack,
        Phase::AwaitingRollbackSnapshot,
    ];
    for phase in all {
        assert!(named.contains(&phase), "{phase:?} has no text in the golden file");
    }
}
