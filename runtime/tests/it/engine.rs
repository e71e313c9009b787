//! The engine: order, bounds, panics, shutdown.

#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc, Mutex,
    mpsc::{Receiver, Sender, channel},
};

use mnemon_runtime::{Engine, EngineOptions, Error, Task, Turn};

/// Notes its name at each step.
struct Steps {
    name: char,
    left: usize,
    log: Arc<Mutex<String>>,
}

impl Task for Steps {
    fn step(&mut self) -> Turn {
        self.log.lock().unwrap().push(self.name);
        self.left -= 1;
        if self.left == 0 { Turn::Done } else { Turn::Again }
    }
}

/// Says when it runs, and waits to be let go.
struct Gate {
    entered: Sender<()>,
    go: Receiver<()>,
}

impl Task for Gate {
    fn step(&mut self) -> Turn {
        self.entered.send(()).unwrap();
        // An error means that the test has ended.
        let _ = self.go.recv();
        Turn::Done
    }
}

struct Panics;

impl Task for Panics {
    fn step(&mut self) -> Turn {
        panic!("this test's task panics on purpose");
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        panic!("and once more while it is dropped");
    }
}

fn engine(queue_max: usize) -> Engine {
    Engine::start(EngineOptions { queue_max, name: "test engine".into() }).unwrap()
}

/// An engine whose worker waits in a task, until the sender speaks or is dropped.
fn held(queue_max: usize) -> (Engine, Sender<()>) {
    let engine = engine(queue_max);
    let ((entered, has_entered), (release, go)) = (channel(), channel());
    engine.submit(Box::new(Gate { entered, go })).unwrap();
    has_entered.recv().unwrap();
    (engine, release)
}

#[test]
fn tasks_take_turns_in_order() {
    let (engine, release) = held(4);
    let log = Arc::new(Mutex::new(String::new()));
    for (name, left) in [('a', 3), ('b', 1), ('c', 2)] {
        engine.submit(Box::new(Steps { name, left, log: Arc::clone(&log) })).unwrap();
    }
    assert_eq!(engine.active(), 4);
    release.send(()).unwrap();
    engine.shutdown();
    assert_eq!(*log.lock().unwrap(), "abcaca");
}

#[test]
fn a_full_queue_refuses_at_once() {
    let (engine, release) = held(2);
    let log = Arc::new(Mutex::new(String::new()));
    let task = || Box::new(Steps { name: 'x', left: 1, log: Arc::clone(&log) });
    engine.submit(task()).unwrap();
    assert!(matches!(engine.submit(task()), Err(Error::Overloaded { limit: 2 })));
    engine.close();
    assert!(matches!(engine.submit(task()), Err(Error::ShuttingDown)));
    release.send(()).unwrap();
    engine.shutdown();
    assert_eq!(*log.lock().unwrap(), "x");
}

#[test]
fn a_panic_ends_its_task_alone() {
    let engine = engine(8);
    let log = Arc::new(Mutex::new(String::new()));
    engine.submit(Box::new(Panics)).unwrap();
    engine.submit(Box::new(Steps { name: 'a', left: 2, log: Arc::clone(&log) })).unwrap();
    engine.shutdown();
    assert_eq!(*log.lock().unwrap(), "aa");
}

/// Never done.
struct Endless;

impl Task for Endless {
    fn step(&mut self) -> Turn {
        Turn::Again
    }
}

#[test]
fn a_dropped_engine_ends_after_the_present_step() {
    let engine = engine(8);
    engine.submit(Box::new(Endless)).unwrap();
    engine.submit(Box::new(Endless)).unwrap();
    drop(engine);
    assert!(Engine::start(EngineOptions { queue_max: 0, name: String::new() }).is_err());
}
