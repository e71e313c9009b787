//! The engine: one worker thread on which tasks take turns.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::thread::JoinHandle;

use mnemon_memory::Invalid;

use crate::error::{Error, Result};

/// Whether a task wants another turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Put it at the end of the queue.
    Again,
    /// It is dropped.
    Done,
}

/// Work in bounded steps.
pub trait Task: Send {
    /// Does one bounded piece of work. A panic ends this task alone: it is dropped, the engine goes on.
    fn step(&mut self) -> Turn;
}

/// Settings of an [`Engine`].
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Tasks waiting or running at once, at least 1; more are refused.
    pub queue_max: usize,
    /// Name of the worker thread.
    pub name: String,
}

/// A worker thread and its bounded queue. Tasks run one step each, in turn, in the order in which they came.
pub struct Engine {
    shared: Arc<Shared>,
    /// Taken when it is joined.
    worker: Option<JoinHandle<()>>,
}

/// What the worker and the submitters share. A panic while the lock is held cannot leave the state torn, because no
/// foreign code runs under it, so poisoning is ignored.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    queue_max: usize,
}

struct State {
    /// Waiting tasks; the running one is outside, counted by `running`.
    queue: VecDeque<Box<dyn Task>>,
    running: usize,
    phase: Phase,
}

#[derive(PartialEq, Eq)]
enum Phase {
    Open,
    /// No new task; the worker ends when the queue is empty.
    Draining,
    /// The worker ends after the present step.
    Stopping,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Starts the worker thread.
    pub fn start(options: EngineOptions) -> Result<Self> {
        if options.queue_max == 0 {
            return Err(Error::Invalid(Invalid { what: "queue_max", why: "0; at least 1 is needed".into() }));
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State { queue: VecDeque::new(), running: 0, phase: Phase::Open }),
            changed: Condvar::new(),
            queue_max: options.queue_max,
        });
        let theirs = Arc::clone(&shared);
        let worker = thread::Builder::new()
            .name(options.name)
            .spawn(move || work(&theirs))
            .map_err(|error| Error::Invalid(Invalid { what: "engine", why: format!("no worker thread: {error}") }))?;
        Ok(Self { shared, worker: Some(worker) })
    }

    /// Puts a task at the end of the queue, or refuses it at once when the queue is full.
    pub fn submit(&self, task: Box<dyn Task>) -> Result<()> {
        let mut state = self.shared.lock();
        if state.phase != Phase::Open {
            return Err(Error::ShuttingDown);
        }
        if state.queue.len() + state.running >= self.shared.queue_max {
            return Err(Error::Overloaded { limit: self.shared.queue_max });
        }
        state.queue.push_back(task);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Tasks waiting or running.
    pub fn active(&self) -> usize {
        let state = self.shared.lock();
        state.queue.len() + state.running
    }

    /// Refuses new tasks from now on; those accepted go on. Needs no ownership, so that a shared engine can be told.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        self.shared.changed.notify_all();
    }

    /// Refuses new tasks and waits until those accepted are done.
    pub fn shutdown(mut self) {
        self.close();
        self.join();
    }

    fn join(&mut self) {
        if let Some(worker) = self.worker.take() {
            // A task may own the last handle of its own engine: a thread cannot wait for itself.
            if worker.thread().id() != thread::current().id() && worker.join().is_err() {
                tracing::error!("the engine's worker thread panicked");
            }
        }
    }
}

impl Drop for Engine {
    /// Ends after the step that is running; waiting tasks are dropped. [`Engine::shutdown`] waits for them instead.
    fn drop(&mut self) {
        self.shared.lock().phase = Phase::Stopping;
        self.shared.changed.notify_all();
        self.join();
    }
}

/// The worker's loop.
fn work(shared: &Shared) {
    while let Some(mut task) = next(shared) {
        // The task is dropped after a panic, so nothing sees what it may have left half done.
        let turn = catch_unwind(AssertUnwindSafe(|| task.step())).unwrap_or_else(|_| {
            tracing::error!("a task panicked and was dropped");
            Turn::Done
        });
        let finished = match turn {
            Turn::Again => {
                let mut state = shared.lock();
                state.queue.push_back(task);
                state.running = 0;
                None
            }
            Turn::Done => Some(task),
        };
        if let Some(task) = finished {
            // Dropped before it stops counting: when the engine is idle, all that its tasks held is released.
            if catch_unwind(AssertUnwindSafe(|| drop(task))).is_err() {
                tracing::error!("a task panicked while it was dropped");
            }
            shared.lock().running = 0;
        }
    }
    // Tasks may run foreign code when dropped: not under the lock.
    let left = std::mem::take(&mut shared.lock().queue);
    for task in left {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
    }
}

/// Waits for the next task; none when the worker shall end.
fn next(shared: &Shared) -> Option<Box<dyn Task>> {
    let mut state = shared.lock();
    loop {
        if state.phase == Phase::Stopping {
            return None;
        }
        if let Some(task) = state.queue.pop_front() {
            state.running = 1;
            return Some(task);
        }
        if state.phase == Phase::Draining {
            return None;
        }
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}
