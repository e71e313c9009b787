//! `mnemon model pull`, `list`, `show` and `remove`, with a small server that speaks the hub's protocol.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Ran, mnemon, run};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a file has: its bytes, and the checksum that the hub says.
struct Stored {
    bytes: Vec<u8>,
    checksum: String,
}

/// A hub with one model, `org/tiny`.
#[derive(Default)]
struct Hub {
    files: Mutex<BTreeMap<String, Stored>>,
    /// How many more downloads are cut after a third of what they should send.
    cuts: AtomicUsize,
    /// Where downloads of more than a byte began.
    begins: Mutex<Vec<usize>>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |written, byte| format!("{written}{byte:02x}"))
}

impl Hub {
    fn put(&self, name: &str, bytes: Vec<u8>) {
        // Large files have SHA-256, others the hash that git has of them.
        let checksum = if bytes.len() > 10_000 {
            hex(&Sha256::digest(&bytes))
        } else {
            hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(&bytes).finalize())
        };
        self.files.lock().unwrap().insert(name.into(), Stored { bytes, checksum });
    }

    fn serve(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hub = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let hub = Arc::clone(&hub);
                std::thread::spawn(move || while hub.answer(stream.as_ref().unwrap()).is_some() {});
            }
        });
        url
    }

    /// Answers one request of a connection; none when it is to be closed.
    fn answer(&self, mut stream: &TcpStream) -> Option<()> {
        let reader = BufReader::new(stream);
        let (mut path, mut range) = (String::new(), None);
        for line in reader.lines() {
            let line = line.ok()?;
            if let Some(rest) = line.strip_prefix("GET ") {
                rest.split(' ').next()?.clone_into(&mut path);
            } else if let Some(rest) = line.to_lowercase().strip_prefix("range: bytes=") {
                let (start, end) = rest.split_once('-')?;
                range = Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()));
            } else if line.is_empty() {
                break;
            }
        }
        if path.is_empty() {
            return None;
        }
        let files = self.files.lock().unwrap();
        if path == "/api/models/org/tiny/revision/main" {
            let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let body = serde_json::json!({ "siblings": siblings, "sha": COMMIT }).to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
            return stream.write_all(format!("{head}{body}").as_bytes()).ok();
        }
        let file = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")).and_then(|name| files.get(name));
        let (Some(file), Some((start, end))) = (file, range) else {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").ok();
        };
        let (whole, checksum) = (file.bytes.len(), &file.checksum);
        let end = end.map_or(whole, |end| whole.min(end + 1));
        let part = file.bytes.get(start..end).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nx-repo-commit: {COMMIT}\r\netag: \"{checksum}\"\r\n\
             content-range: bytes {start}-{end}/{whole}\r\ncontent-length: {}\r\n\r\n",
            part.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        let is_cut = part.len() > 10_000
            && self.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |cuts| cuts.checked_sub(1)).is_ok();
        if part.len() > 1 {
            self.begins.lock().unwrap().push(start);
        }
        stream.write_all(if is_cut { &part[..part.len() / 3] } else { part }).ok()?;
        (!is_cut).then_some(())
    }
}

struct Machine {
    hub: Arc<Hub>,
    url: String,
    home: TempDir,
}

impl Machine {
    fn new() -> Self {
        let hub = Arc::new(Hub::default());
        Self { url: hub.serve(), hub, home: tempfile::tempdir().unwrap() }
    }

    fn command(&self) -> Command {
        let mut command = mnemon();
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.url).env_remove("HF_HUB_OFFLINE");
        command.env_remove("http_proxy").env_remove("HTTP_PROXY").env_remove("all_proxy").env_remove("ALL_PROXY");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command().args(arguments), b"")
    }

    fn blobs(&self) -> PathBuf {
        self.home.path().join("hub/models--org--tiny/blobs")
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtime/tests/fixtures/llama");
    std::fs::read(folder.join(name)).unwrap()
}

/// The small model of the runtime's tests.
fn put_model(hub: &Hub) {
    for name in ["config.json", "model.safetensors"] {
        hub.put(name, fixture(name));
    }
    let vocabulary: Vec<String> = (0..60).map(|id| format!("\"t{id}\":{id}")).collect();
    let tokenizer = format!(
        r#"{{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
            "truncation":null,"padding":null,"model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"t0"}}}}"#,
        vocabulary.join(",")
    );
    hub.put("tokenizer.json", tokenizer.into_bytes());
    hub.put("README.md", b"not needed".to_vec());
}

#[test]
fn a_model_is_pulled_listed_shown_and_removed() {
    let machine = Machine::new();
    put_model(&machine.hub);
    assert!(machine.run(&["model", "list"]).succeeds().out.contains("no model was downloaded yet"));
    machine.run(&["model", "show", "org/tiny"]).fails(1, &["mnemon model pull org/tiny"]);
    let pulled = machine.run(&["model", "pull", "org/tiny"]);
    assert!(pulled.succeeds().out.contains("org/tiny is here"), "{}", pulled.out);
    let listed = machine.run(&["model", "list"]);
    assert!(listed.succeeds().out.starts_with("org/tiny  "), "{}", listed.out);
    assert!(listed.out.contains(&COMMIT[..12]));
    let shown = machine.run(&["model", "show", "org/tiny"]);
    assert!(shown.succeeds().out.contains("llama"), "{}", shown.out);
    // Nothing is downloaded twice, and no more than is needed.
    let downloads = machine.hub.begins.lock().unwrap().len();
    assert_eq!(downloads, 3);
    machine.run(&["model", "pull", "org/tiny"]).succeeds();
    assert_eq!(machine.hub.begins.lock().unwrap().len(), downloads);
    let removed = machine.run(&["model", "remove", "org/tiny"]);
    assert!(removed.succeeds().out.contains("removed org/tiny"), "{}", removed.out);
    assert!(!machine.blobs().exists());
    machine.run(&["model", "remove", "org/tiny"]).fails(1, &["not in the cache"]);
}

#[test]
fn what_was_cut_goes_on_where_it_ended() {
    let machine = Machine::new();
    let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at * 7 % 251) as u8).collect();
    machine.hub.put("tiny-Q4_K_M.gguf", bytes.clone());
    machine.hub.put("tiny-Q8_0.gguf", b"other".to_vec());
    machine.run(&["model", "pull", "org/tiny"]).fails(1, &["several GGUF files", "org/tiny:tiny-Q4_K_M.gguf"]);
    machine.run(&["model", "pull", "org/tiny:Q5"]).fails(1, &["no such file", "org/tiny:tiny-Q8_0.gguf"]);
    // Once more than it tries again by itself.
    machine.hub.cuts.store(6, Ordering::SeqCst);
    machine.run(&["model", "pull", "org/tiny:q4_k_m"]).fails(1, &["tiny-Q4_K_M.gguf"]);
    let before = machine.hub.begins.lock().unwrap().len();
    machine.run(&["model", "pull", "org/tiny:q4_k_m"]).succeeds();
    let begins = machine.hub.begins.lock().unwrap().clone();
    assert!(begins[before..].iter().all(|&start| start > 200_000), "{begins:?}");
    let listed = machine.run(&["model", "list"]);
    assert!(listed.succeeds().out.starts_with("org/tiny:tiny-Q4_K_M.gguf  "), "{}", listed.out);
    let blob = machine.blobs().join(hex(&Sha256::digest(&bytes)));
    assert!(std::fs::read(blob).unwrap() == bytes);
}

#[test]
fn bytes_that_are_not_those_of_the_hub_are_thrown_away() {
    let machine = Machine::new();
    machine.hub.put("tiny.gguf", vec![7; 50_000]);
    machine.hub.files.lock().unwrap().get_mut("tiny.gguf").unwrap().bytes[40_000] = 8;
    machine.run(&["model", "pull", "org/tiny"]).fails(1, &["not those that the hub names"]);
    assert!(machine.run(&["model", "list"]).succeeds().out.contains("no model"), "nothing is left");
    machine.hub.put("tiny.gguf", vec![7; 50_000]);
    machine.run(&["model", "pull", "org/tiny"]).succeeds();
}

#[test]
fn what_is_no_name_or_not_there_is_told() {
    let machine = Machine::new();
    machine.run(&["model", "pull", "tiny"]).fails(2, &["ORG/NAME"]);
    machine.run(&["model", "pull", "org/other"]).fails(1, &["org/other", "404"]);
    machine.run(&["model", "pull", "org/tiny"]).fails(1, &["neither config.json"]);
    // A mistyped path is no name: `src` is a folder here.
    machine.run(&["model", "show", "src/modl"]).fails(2, &["src/modl", "neither"]);
    run(machine.command().env("HF_HUB_OFFLINE", "1").args(["model", "pull", "org/tiny"]), b"")
        .fails(1, &["HF_HUB_OFFLINE"]);
}
