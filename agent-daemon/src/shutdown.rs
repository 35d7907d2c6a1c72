// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Owns every task of the daemon: starts them, notices when one ends, and ends all of them in order and in time.
//!
//! The daemon stops stage by stage: whoever accepts work stops and the calls in flight are finished, then who watches
//! the kernel, then who writes the audit log. So what is said last is still written.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::diagnostic::with_sources;

use crate::telemetry::field;

/// Why the daemon ended, other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task that has to run all the time came back.
    #[error("task {task} ended although nobody had told it to")]
    Ended {
        /// Its name.
        task: &'static str,
    },
    /// A task failed.
    #[error("task {task} failed")]
    Failed {
        /// Its name.
        task: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A task panicked.
    #[error("bug: task {task} panicked")]
    Panicked {
        /// Its name.
        task: &'static str,
    },
    /// Not everything was finished in time.
    #[error("not finished within {deadline:?}: {}", unfinished.join(", "))]
    Deadline {
        /// As configured.
        deadline: Duration,
        /// What was still running.
        unfinished: Vec<String>,
    },
    /// A second signal came while the daemon was stopping.
    #[error("ended by a second signal before everything was finished")]
    Interrupted,
    /// The kernel did not let us listen to signals.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
}

/// When a task is told to stop. Each stage is over before the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Takes work from outside: listeners and their connections.
    Serve,
    /// Follows the kernel and ends leases.
    Witness,
    /// Keeps the audit log.
    Record,
}

const STAGES: [Stage; 3] = [Stage::Serve, Stage::Witness, Stage::Record];

/// What somebody outside asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// Where signals come from. Waiting for one can be given up without losing it.
pub trait Signals: Send {
    /// The next one; none when there will be no more.
    fn next(&mut self) -> impl Future<Output = Option<Signal>> + Send;
}

/// The signals of this process.
#[derive(Debug)]
pub struct ProcessSignals {
    terminate: UnixSignal,
    interrupt: UnixSignal,
    hang_up: UnixSignal,
}

impl ProcessSignals {
    /// Listens from now on; what came before ended the process.
    ///
    /// # Errors
    /// When the kernel does not let us.
    pub fn listen() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }
}

impl Signals for ProcessSignals {
    async fn next(&mut self) -> Option<Signal> {
        // Each arm is cancel-safe: a signal that is not taken stays pending. A stop goes before a reload.
        tokio::select! {
            biased;
            got = self.terminate.recv() => got.map(|()| Signal::Stop),
            got = self.interrupt.recv() => got.map(|()| Signal::Stop),
            got = self.hang_up.recv() => got.map(|()| Signal::Reload),
        }
    }
}

/// For tests and for whoever composes the daemon inside another process.
impl Signals for mpsc::Receiver<Signal> {
    async fn next(&mut self) -> Option<Signal> {
        self.recv().await
    }
}

/// Owns the critical tasks. Nothing else in the daemon lives longer than one call or connection.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), Box<dyn std::error::Error + Send + Sync>>>,
    running: HashMap<Id, (&'static str, Stage)>,
    connections: TaskTracker,
    root: CancellationToken,
    stages: HashMap<Stage, CancellationToken>,
    reloads: watch::Sender<u64>,
    deadline: Duration,
}

impl Supervisor {
    /// With nothing to do yet. The deadline is that of the whole stop.
    pub fn new(deadline: Duration) -> Self {
        Self {
            tasks: JoinSet::new(),
            running: HashMap::new(),
            connections: TaskTracker::new(),
            root: CancellationToken::new(),
            stages: STAGES.into_iter().map(|stage| (stage, CancellationToken::new())).collect(),
            reloads: watch::Sender::new(0),
            deadline,
        }
    }

    /// Cancelling it stops the daemon in order; it is cancelled as soon as the daemon stops for any reason.
    pub fn root(&self) -> CancellationToken {
        self.root.clone()
    }

    /// Is cancelled when this stage has to stop.
    pub fn token(&self, stage: Stage) -> CancellationToken {
        // Every stage has one; were there none, stopping at once is the safe answer.
        self.stages.get(&stage).cloned().unwrap_or_else(|| {
            let token = CancellationToken::new();
            token.cancel();
            token
        })
    }

    /// Where the tasks of single connections are started. They belong to [`Stage::Serve`] and watch its token; the
    /// end of one means nothing to the others.
    pub fn connections(&self) -> TaskTracker {
        self.connections.clone()
    }

    /// Changes whenever a reload is asked for by signal. Several that come together may be one change.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// Starts a critical task: it has to run until the token of its stage is cancelled. If it ends earlier, fails or
    /// panics, the daemon ends with that as the cause.
    pub fn spawn<F, E>(&mut self, stage: Stage, task: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let future = run(self.token(stage));
        let handle = self.tasks.spawn(async move { future.await.map_err(Into::into) });
        self.running.insert(handle.id(), (task, stage));
    }

    /// Runs until a signal, [`Self::root`] or the first failing task ends it, and stops everything in order.
    /// A second stop signal ends it at once, and so does the deadline; what runs then is dropped with the runtime.
    ///
    /// # Errors
    /// The first cause, if the daemon was not simply told to stop and did.
    pub async fn run(mut self, mut signals: impl Signals) -> Result<(), Error> {
        let mut cause = self.watch(&mut signals).await;
        self.root.cancel();
        let deadline = self.deadline;
        let stopped = {
            let stop = tokio::time::timeout(deadline, self.stop(&mut cause));
            // Dropping `stop` loses no task: all of them stay in `self.tasks`, which is dropped next.
            tokio::select! {
                finished = stop => finished.map_err(|_| None),
                () = second_stop(&mut signals) => Err(Some(Error::Interrupted)),
            }
        };
        if let Err(error) = stopped {
            let error = error.unwrap_or_else(|| Error::Deadline { deadline, unfinished: self.unfinished() });
            self.tasks.abort_all();
            keep_first(&mut cause, error);
        }
        cause.map_or(Ok(()), Err)
    }

    /// Until there is a reason to stop.
    async fn watch(&mut self, signals: &mut impl Signals) -> Option<Error> {
        let mut has_signals = true;
        loop {
            // Each arm is cancel-safe. The failure of a task goes first, so that it is the cause.
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next_with_id() => return Some(self.premature(ended)),
                () = self.root.cancelled() => return None,
                got = signals.next(), if has_signals => match got {
                    Some(Signal::Stop) => return None,
                    Some(Signal::Reload) => self.reloads.send_modify(|count| *count = count.wrapping_add(1)),
                    None => has_signals = false,
                },
            }
        }
    }

    /// Stage by stage.
    async fn stop(&mut self, cause: &mut Option<Error>) {
        for stage in STAGES {
            self.token(stage).cancel();
            while self.running.values().any(|(_, of)| *of <= stage) {
                let Some(ended) = self.tasks.join_next_with_id().await else { break };
                if let Some(error) = self.outcome(ended, stage) {
                    keep_first(cause, error);
                }
            }
            if stage == Stage::Serve {
                self.connections.close();
                self.connections.wait().await;
            }
        }
    }

    fn premature(&mut self, ended: Ended) -> Error {
        let task = self.forget(&ended).0;
        failure(task, ended).unwrap_or(Error::Ended { task })
    }

    fn outcome(&mut self, ended: Ended, stage: Stage) -> Option<Error> {
        let (task, of) = self.forget(&ended);
        failure(task, ended).or_else(|| (of > stage).then_some(Error::Ended { task }))
    }

    fn forget(&mut self, ended: &Ended) -> (&'static str, Stage) {
        let id = match ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        self.running.remove(&id).unwrap_or(("unknown", Stage::Serve))
    }

    fn unfinished(&self) -> Vec<String> {
        let mut tasks: Vec<(Stage, &str)> = self.running.values().map(|(task, stage)| (*stage, *task)).collect();
        tasks.sort_unstable();
        let connections = self.connections.len();
        let connections = (connections > 0).then(|| format!("{connections} connections"));
        tasks.into_iter().map(|(_, task)| task.to_owned()).chain(connections).collect()
    }
}

type Ended = Result<(Id, Result<(), Box<dyn std::error::Error + Send + Sync>>), JoinError>;

fn failure(task: &'static str, ended: Ended) -> Option<Error> {
    match ended {
        Ok((_, Ok(()))) => None,
        Ok((_, Err(source))) => Some(Error::Failed { task, source }),
        // Nobody cancels single tasks, so it is a panic; the panic hook has printed it.
        Err(_) => Some(Error::Panicked { task }),
    }
}

/// Later ones mostly follow from the first; they are only logged.
fn keep_first(cause: &mut Option<Error>, error: Error) {
    if cause.is_some() {
        tracing::error!({ field::ERROR } = with_sources(&error), "failed while stopping");
    } else {
        *cause = Some(error);
    }
}

// Each wait is cancel-safe, as `Signals::next` is.
async fn second_stop(signals: &mut impl Signals) {
    loop {
        match signals.next().await {
            Some(Signal::Stop) => return,
            Some(Signal::Reload) => {}
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Tests wait for conditions; this only ends one that hangs.
    const LONG: Duration = Duration::from_secs(60);

    fn no_signals() -> mpsc::Receiver<Signal> {
        mpsc::channel(1).1
    }

    async fn until_cancelled(token: CancellationToken) -> Result<(), io::Error> {
        token.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_stop_signal_ends_every_task_and_is_no_error() {
        let mut supervisor = Supervisor::new(LONG);
        supervisor.spawn(Stage::Serve, "api", until_cancelled);
        supervisor.spawn(Stage::Record, "audit", until_cancelled);
        let (sender, receiver) = mpsc::channel(1);
        sender.send(Signal::Stop).await.unwrap();
        let root = supervisor.root();
        supervisor.run(receiver).await.unwrap();
        assert!(root.is_cancelled());
    }

    #[tokio::test]
    async fn the_unexpected_end_of_one_task_ends_all_and_is_the_cause() {
        for (how, expected) in [
            ("returns", "task events ended although nobody had told it to"),
            ("fails", "task events failed"),
            ("panics", "bug: task events panicked"),
        ] {
            let mut supervisor = Supervisor::new(LONG);
            let others = Arc::new(Mutex::new(0));
            for stage in STAGES {
                let others = Arc::clone(&others);
                supervisor.spawn(stage, "other", move |token| async move {
                    token.cancelled().await;
                    *others.lock().unwrap() += 1;
                    Err(io::Error::other("follows from the first one"))
                });
            }
            supervisor.spawn(Stage::Witness, "events", move |_| async move {
                match how {
                    "returns" => Ok(()),
                    "fails" => Err(io::Error::other("the map is gone")),
                    _ => panic!("a bug"),
                }
            });
            let error = supervisor.run(no_signals()).await.unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert_eq!(*others.lock().unwrap(), 3, "{how}");
        }
    }

    #[tokio::test]
    async fn a_stage_ends_only_after_the_one_before_it_and_its_connections() {
        let mut supervisor = Supervisor::new(LONG);
        let order = Arc::new(Mutex::new(Vec::new()));
        for (stage, task) in [(Stage::Record, "record"), (Stage::Serve, "serve"), (Stage::Witness, "witness")] {
            let order = Arc::clone(&order);
            supervisor.spawn(stage, task, move |token| async move {
                token.cancelled().await;
                order.lock().unwrap().push(task);
                Ok::<_, io::Error>(())
            });
        }
        let token = supervisor.token(Stage::Serve);
        let connection = Arc::clone(&order);
        supervisor.connections().spawn(async move {
            token.cancelled().await;
            // Whatever could run before this connection is over, runs.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            connection.lock().unwrap().push("connection");
        });
        supervisor.root().cancel();
        supervisor.run(no_signals()).await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["serve", "connection", "witness", "record"]);
    }

    #[tokio::test]
    async fn what_does_not_end_is_named_at_the_deadline() {
        let mut supervisor = Supervisor::new(Duration::from_millis(1));
        supervisor.spawn(Stage::Serve, "api", until_cancelled);
        supervisor.spawn(Stage::Record, "audit", |_| std::future::pending::<Result<(), io::Error>>());
        supervisor.connections().spawn(std::future::pending::<()>());
        supervisor.root().cancel();
        let error = supervisor.run(no_signals()).await.unwrap_err();
        assert_eq!(error.to_string(), "not finished within 1ms: audit, 1 connections");
    }

    #[tokio::test]
    async fn a_second_stop_signal_ends_at_once_and_a_reload_does_not() {
        let mut supervisor = Supervisor::new(LONG);
        supervisor.spawn(Stage::Serve, "api", |_| std::future::pending::<Result<(), io::Error>>());
        let (sender, receiver) = mpsc::channel(3);
        for signal in [Signal::Stop, Signal::Reload, Signal::Stop] {
            sender.send(signal).await.unwrap();
        }
        assert!(matches!(supervisor.run(receiver).await, Err(Error::Interrupted)));
    }

    #[tokio::test]
    async fn the_first_cause_is_kept_when_the_deadline_passes_too() {
        let mut supervisor = Supervisor::new(Duration::from_millis(1));
        supervisor.spawn(Stage::Serve, "api", |_| async { Err(io::Error::other("no socket")) });
        supervisor.spawn(Stage::Record, "audit", |_| std::future::pending::<Result<(), io::Error>>());
        assert!(matches!(supervisor.run(no_signals()).await, Err(Error::Failed { task: "api", .. })));
    }

    #[tokio::test]
    async fn a_reload_signal_is_delivered_and_stops_nothing() {
        let mut supervisor = Supervisor::new(LONG);
        let mut reloads = supervisor.reloads();
        let root = supervisor.root();
        supervisor.spawn(Stage::Serve, "reload", move |token| async move {
            reloads.changed().await.map_err(io::Error::other)?;
            let count = *reloads.borrow();
            assert!(!token.is_cancelled());
            root.cancel();
            token.cancelled().await;
            if count == 1 { Ok(()) } else { Err(io::Error::other("counted wrongly")) }
        });
        let (sender, receiver) = mpsc::channel(1);
        sender.send(Signal::Reload).await.unwrap();
        supervisor.run(receiver).await.unwrap();
    }

    #[tokio::test]
    async fn signals_of_the_process_arrive() {
        // Only this one: the others would end a test that runs beside this.
        let mut signals = ProcessSignals::listen().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        let got = tokio::time::timeout(LONG, signals.next()).await.unwrap();
        assert_eq!(got, Some(Signal::Reload));
    }
}
