//! Nothing that goes away makes the picture better.

use proptest::prelude::*;

use super::*;

/// How a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Connected,
    Silent,
    Never,
    Revoked,
    Retired,
}

/// How a volume is: snapshots kept, gone, retired, anonymous, used.
#[derive(Debug, Clone, Copy)]
struct Shape {
    snapshots: usize,
    gone: bool,
    retired: bool,
    anonymous: bool,
    used: bool,
    age_hours: i64,
}

fn presence() -> impl Strategy<Value = Presence> {
    prop_oneof![
        12 => Just(Presence::Connected),
        1 => Just(Presence::Silent),
        1 => Just(Presence::Never),
        1 => Just(Presence::Revoked),
        1 => Just(Presence::Retired),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    let seldom = || proptest::bool::weighted(0.2);
    (0_usize..3, seldom(), any::<bool>(), seldom(), proptest::bool::weighted(0.8), 0_i64..48).prop_map(
        |(snapshots, gone, retired, anonymous, used, age_hours)| Shape {
            snapshots,
            gone,
            // Only what is gone can be retired.
            retired: gone && retired,
            anonymous,
            used,
            age_hours,
        },
    )
}

const POLICIES: [&str; 4] = [
    "name = 'all'\nvolumes = ['*']\n[schedule]\ncron = '0 2 * * *'\n",
    "name = 'named'\nhosts = ['h0']\nvolumes = ['v0', 'v1']\n[schedule]\ncron = '0 2 * * *'\n",
    "name = 'by-hand'\nvolumes = ['v*']\n",
    "name = 'off'\nenabled = false\nvolumes = ['nothing']\n[schedule]\ncron = '0 2 * * *'\n",
];

fn world() -> impl Strategy<Value = Facts> {
    let hosts = proptest::collection::vec((presence(), proptest::collection::vec(shape(), 0..4)), 0..4);
    (hosts, proptest::collection::vec(any::<bool>(), 4)).prop_map(|(shapes, chosen)| {
        let (mut hosts, mut sources, mut snapshots, mut connected) = (vec![], vec![], vec![], vec![]);
        for (index, (presence, shapes)) in shapes.into_iter().enumerate() {
            let mut made = host(&format!("h{index}"));
            let closed = matches!(presence, Presence::Revoked | Presence::Retired);
            made.revoked_ms = closed.then_some(NOW - HOUR);
            made.retired_ms = (presence == Presence::Retired).then_some(NOW - HOUR);
            match presence {
                Presence::Connected => connected.push(made.id),
                Presence::Silent => made.last_seen_ms = Some(NOW - HOUR),
                Presence::Never => made.last_seen_ms = None,
                Presence::Revoked | Presence::Retired => {}
            }
            for (index, shape) in shapes.into_iter().enumerate() {
                let mut source = volume(&made, &format!("v{index}"));
                source.gone_ms = shape.gone.then_some(NOW - HOUR);
                source.retired_ms = shape.retired.then_some(NOW - HOUR);
                (source.anonymous, source.used) = (shape.anonymous, shape.used);
                for number in 1..=shape.snapshots as u64 {
                    let mut record = snapshot(&source, shape.age_hours * HOUR, false);
                    record.id.number = number;
                    snapshots.push(record);
                }
                sources.push(source);
            }
            hosts.push(made);
        }
        let texts = POLICIES.iter().zip(chosen).filter(|(_, chosen)| *chosen);
        let policies = texts.map(|(text, _)| policy(text)).collect();
        Facts { connected, snapshots, ..facts(hosts, sources, policies) }
    })
}

fn named(facts: &Facts, host: &HostRecord, source: &SourceRecord) -> Vec<Problem> {
    let about = |problem: &Problem| problem.host == host.name && problem.source == source.name;
    coverage(facts).problems.into_iter().filter(about).collect()
}

fn host_of<'f>(facts: &'f Facts, source: &SourceRecord) -> &'f HostRecord {
    facts.hosts.iter().find(|host| host.id == source.host).expect("its host")
}

proptest! {
    #[test]
    fn h06_everything_that_went_away_is_named_once_with_a_next_command(facts in world()) {
        let all = coverage(&facts).problems;
        prop_assert!(all.iter().all(|problem| !problem.hint.is_empty() && !problem.message.is_empty()));
        for source in &facts.sources {
            let host = host_of(&facts, source);
            let about = named(&facts, host, source);
            let kept = facts.snapshots.iter().any(|snapshot| snapshot.id.source == source.id);
            let missed = host.revoked_ms.is_none() && source.gone_ms.is_some()
                && source.retired_ms.is_none() && kept;
            let vanished = about.iter().filter(|problem| problem.kind == ProblemKind::VanishedSource).count();
            prop_assert_eq!(vanished, usize::from(missed), "{:?}", about);
            if source.retired_ms.is_some() || host.retired_ms.is_some() {
                prop_assert_eq!(about, vec![]);
            }
        }
        for host in &facts.hosts {
            let problems = all.iter().filter(|problem| {
                problem.host == host.name && matches!(problem.kind, ProblemKind::SilentHost | ProblemKind::RevokedHost)
            });
            let away = host.retired_ms.is_none()
                && (host.revoked_ms.is_some() || !facts.connected.contains(&host.id));
            prop_assert_eq!(problems.count(), usize::from(away));
        }
    }

    #[test]
    fn h06_where_nothing_is_named_everything_is_there_and_backed_up(facts in world()) {
        let Coverage { hosts, problems } = coverage(&facts);
        if !problems.is_empty() {
            return Ok(());
        }
        prop_assert!(!facts.hosts.is_empty());
        for line in hosts {
            prop_assert!(line.connected);
            prop_assert_eq!((line.sources, line.overdue, line.missing), (line.protected, 0, 0));
        }
    }

    #[test]
    fn h06_nothing_that_goes_away_makes_it_green(mut facts in world(), pick in any::<prop::sample::Index>()) {
        let backed_up: Vec<usize> = (0..facts.sources.len())
            .filter(|&index| {
                let source = &facts.sources[index];
                let kept = facts.snapshots.iter().any(|snapshot| snapshot.id.source == source.id);
                source.gone_ms.is_none() && kept && host_of(&facts, source).retired_ms.is_none()
            })
            .collect();
        prop_assume!(!backed_up.is_empty());
        let index = backed_up[pick.index(backed_up.len())];
        let source = facts.sources[index].clone();
        let host = host_of(&facts, &source).clone();

        facts.sources[index].gone_ms = Some(NOW);
        let after = coverage(&facts).problems;
        let about = |problem: &&Problem| {
            problem.host == host.name && (problem.source == source.name || problem.kind == ProblemKind::RevokedHost)
        };
        prop_assert!(after.iter().any(|problem| about(&problem)), "its source went: {:?}", after);

        facts.sources[index].gone_ms = None;
        facts.connected.retain(|connected| *connected != host.id);
        let seen = facts.hosts.iter_mut().find(|known| known.id == host.id).expect("it");
        seen.last_seen_ms = seen.last_seen_ms.map(|_| NOW - HOUR);
        let after = coverage(&facts).problems;
        let named = |problem: &Problem| {
            problem.host == host.name && matches!(problem.kind, ProblemKind::SilentHost | ProblemKind::RevokedHost)
        };
        prop_assert!(after.iter().any(named), "the host went: {:?}", after);

        facts.policies.clear();
        let counted = !source.anonymous || source.used;
        let after = coverage(&facts).problems;
        prop_assert!(
            !counted || host.revoked_ms.is_some()
                || after.iter().any(|problem| problem.kind == ProblemKind::Unprotected && problem.source == source.name),
            "its policy went: {:?}", after
        );
    }
}
