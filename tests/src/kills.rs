//! Kills at fail points: who is killed, where, and during what is data, and one
//! function runs it.

use crate::fleet::Fleet;

/// The agent of the host that most scenarios have.
pub const AGENT: Victim<'static> = Victim::Agent("host-a");

/// The process that dies, or stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim<'a> {
    /// The agent of this host.
    Agent(&'a str),
    Controller,
}

/// A row of a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Kill<A> {
    pub victim: Victim<'static>,
    /// The fail point it dies at.
    pub point: &'static str,
    /// What brings it there.
    pub act: A,
}

/// Rows that differ in their place alone.
pub fn each<A: Copy>(
    victim: Victim<'static>,
    points: impl IntoIterator<Item = &'static str>,
    act: A,
) -> impl Iterator<Item = Kill<A>> {
    points.into_iter().map(move |point| Kill { victim, point, act })
}

/// What is done around each kill of a matrix, in this order.
pub trait Matrix {
    type Act: Copy;

    fn fleet(&mut self) -> &mut Fleet;

    /// Before the victim is started with its fail point.
    fn prepare(&mut self, _kill: &Kill<Self::Act>) {}

    /// Starts the work in which the victim is killed. What the call returns does
    /// not matter.
    fn begin(&mut self, kill: &Kill<Self::Act>);

    /// What there has to be while the victim is dead.
    fn inspect(&mut self, _kill: &Kill<Self::Act>) {}

    /// Waits until jobs, containers and data are as they have to be, or panics. The
    /// victim has just been started again.
    fn settle(&mut self, kill: &Kill<Self::Act>);
}

/// Runs a matrix, and gives how many kills it had.
#[track_caller]
pub fn run<M: Matrix>(scene: &mut M, matrix: impl IntoIterator<Item = Kill<M::Act>>) -> usize {
    let mut kills = 0;
    for kill in matrix {
        scene.prepare(&kill);
        scene.fleet().arm(kill.victim, kill.point);
        scene.begin(&kill);
        scene.fleet().wait_death(kill.victim);
        scene.inspect(&kill);
        scene.fleet().start_again(kill.victim);
        scene.settle(&kill);
        kills += 1;
    }
    kills
}

impl Fleet {
    /// Starts a process anew that dies at a fail point, or with `halt NAME` stands
    /// still there. Returns when what runs is connected.
    #[track_caller]
    pub fn arm(&mut self, victim: Victim<'_>, point: &str) {
        match victim {
            Victim::Agent(host) => {
                self.host(host).agent().kill();
                self.host(host).start_agent(Some(point));
            }
            Victim::Controller => {
                self.controller().kill();
                self.start_controller(Some(point));
            }
        }
        let running =
            self.hosts_mut().iter_mut().filter_map(|host| host.agent_runs().then(|| host.name.clone()));
        running.collect::<Vec<_>>().iter().for_each(|host| self.wait_connected(host));
    }

    /// Waits until a process has died at its fail point.
    #[track_caller]
    pub fn wait_death(&mut self, victim: Victim<'_>) {
        match victim {
            Victim::Agent(host) => self.host(host).agent().wait(120),
            Victim::Controller => self.controller().wait(120),
        };
    }

    /// Starts a process that has ended, with no fail point.
    pub fn start_again(&mut self, victim: Victim<'_>) {
        match victim {
            Victim::Agent(host) => self.host(host).start_agent(None),
            Victim::Controller => self.start_controller(None),
        }
    }
}
