//! A server started by the binary itself on a free port, and the binary as its client.
// Each test file uses what it needs of this.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The binary, with an environment that settings of the machine cannot reach.
pub(crate) fn mnemon() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mnemon"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MNEMON_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A running `mnemon serve`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    folder: Option<TempDir>,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    /// A server on the folder that another one left.
    pub(crate) fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        let mut command = mnemon();
        command.args(["serve", "--listen", "127.0.0.1:0", "--json", "--log", "warn"]).args(arguments);
        // A server whose memories another one keeps has no folder for them.
        if !arguments.contains(&"--store") {
            command.arg("--data").arg(folder.path().join("data"));
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let announced: Value = serde_json::from_str(&line).expect("serve announces itself as JSON");
        let url = announced["listening"].as_str().unwrap().to_owned();
        Self { child, url, folder: Some(folder) }
    }

    /// Runs a command against this server.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, b"")
    }

    /// As `run`, with something on standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        run(mnemon().env("MNEMON_SERVER", &self.url).args(arguments), input)
    }

    /// Runs a command with `--json` that must succeed; returns what it wrote.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.run(arguments).with_json(arguments).value()
    }

    /// A file in the server's folder.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.folder().join(name);
        std::fs::write(&path, content).unwrap();
        text(&path)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.end()
    }

    fn end(&mut self) -> Option<i32> {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap().code()
    }

    /// As `terminate`, and returns the folder.
    pub(crate) fn leave(mut self) -> TempDir {
        assert_eq!(self.end(), Some(0));
        self.folder.take().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn with_json(self, arguments: &[&str]) -> Self {
        assert!(arguments.contains(&"--json"), "{arguments:?}");
        self
    }

    /// Standard output as JSON; the command must have succeeded.
    pub(crate) fn value(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }

    /// The error on standard error as JSON; nothing may stand beside it.
    pub(crate) fn error(&self) -> Value {
        let value: Value = serde_json::from_str(&self.err).unwrap_or_else(|e| panic!("{e}: {}", self.err));
        assert_eq!(value["error"]["exit"], self.code);
        value["error"].clone()
    }

    /// Checks the exit code, and that the error says all of `words`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {:?}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Self {
        assert_eq!(self.code, 0, "out: {}\nerr: {}", self.out, self.err);
        self
    }
}

/// Runs a command with something on standard input. One that does not end is killed, and the test with it.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Ran {
    const PATIENCE: Duration = Duration::from_secs(120);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = |mut stream: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        })
    };
    let out = read(Box::new(child.stdout.take().unwrap()));
    let err = read(Box::new(child.stderr.take().unwrap()));
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input closes it.
    let _ = stdin.write_all(input);
    drop(stdin);
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            None => {
                child.kill().unwrap();
                panic!("{command:?} does not end");
            }
        }
    };
    Ran {
        code: status.code().expect("no signal"),
        out: out.join().unwrap().unwrap(),
        err: err.join().unwrap().unwrap(),
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A sentence of every story that is unlike all others.
pub(crate) const ODD_LINE: &str =
    "Meanwhile the keeper of the lighthouse had painted seventeen purple umbrellas for the queen of Portugal.\n";

/// A story with a line of its own for each number, and `ODD_LINE` in the middle.
pub(crate) fn story(lines: usize) -> String {
    const WHO: [&str; 7] = ["baker", "captain", "widow", "clerk", "miller", "gardener", "judge"];
    const WHAT: [&str; 11] =
        ["lamp", "boat", "violin", "garden", "letter", "clock", "bridge", "horse", "cellar", "coat", "map"];
    let line =
        |n: usize| format!("On page {n} the {} of village {} lost a {}.\n", WHO[n % 7], n * 37 % 101, WHAT[n * 5 % 11]);
    let (first, second) = (0..lines / 2, lines / 2..lines);
    first.map(line).chain([ODD_LINE.to_owned()]).chain(second.map(line)).collect()
}
