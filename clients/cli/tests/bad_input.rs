//! Whatever is wrong: a clear message, the right exit code, nothing lost, no panic.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Server, mnemon, run, story};

#[test]
fn the_command_line_is_checked_first() {
    let ran = |arguments: &[&str]| run(mnemon().args(arguments), b"");
    ran(&[]).fails(2, &["Usage"]);
    ran(&["remember"]).fails(2, &["remember"]);
    ran(&["search", "m", "query", "-k", "many"]).fails(2, &["many"]);
    ran(&["ingest", "m", "a.txt", "--append", "--resume"]).fails(2, &["--append", "--resume"]);
    let error = ran(&["generate", "m", "--json"]);
    error.fails(2, &[]);
    assert_eq!(error.error()["code"], "usage");
    assert!(error.error()["message"].as_str().unwrap().contains("PROMPT"));

    let help = ran(&["--help"]);
    assert!(help.succeeds().out.contains("Exit codes"), "{}", help.out);
    for command in ["serve", "ingest", "search", "generate", "score", "demo"] {
        let help = ran(&[command, "--help"]);
        assert!(help.succeeds().out.contains(&format!("  mnemon {command}")), "no example: {}", help.out);
    }
    for command in [["memory", "create"], ["memory", "list"], ["memory", "show"], ["memory", "delete"]] {
        assert!(ran(&[command[0], command[1], "--help"]).succeeds().out.contains("Examples"));
    }
    assert!(ran(&["--version"]).succeeds().out.starts_with("mnemon "));
}

#[test]
fn a_server_that_is_not_there_is_told() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    run(mnemon().args(["memory", "list", "--server", &url]), b"").fails(5, &[&url, "mnemon serve"]);
    let error = run(mnemon().args(["memory", "list", "--json", "--server", &url]), b"");
    assert_eq!(error.error()["code"], "unreachable");
    assert_eq!(error.out, "");
    run(mnemon().args(["memory", "list", "--server", "ftp://nowhere"]), b"").fails(2, &["ftp://nowhere"]);
}

#[test]
fn files_that_cannot_be_read_are_told_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| common::text(&folder.path().join(name));
    std::fs::write(path("empty.txt"), "").unwrap();
    std::fs::write(path("latin1.txt"), b"caf\xe9 au lait").unwrap();
    std::fs::write(path("good.txt"), "good").unwrap();
    std::fs::create_dir(path("sub")).unwrap();
    std::fs::write(path("sub/good.txt"), "good").unwrap();
    // No server is needed to find any of these.
    let ran = |arguments: &[&str]| run(mnemon().args(["--server", "http://127.0.0.1:9"]).args(arguments), b"");
    ran(&["ingest", "m", &path("nothing.txt")]).fails(2, &["nothing.txt", "no file"]);
    ran(&["ingest", "m", &path("empty.txt")]).fails(2, &["empty.txt", "is empty"]);
    ran(&["ingest", "m", &path("sub")]).fails(2, &["is a folder"]);
    ran(&["ingest", "m", &path("latin1.txt")]).fails(2, &["latin1.txt", "byte 3", "iconv"]);
    ran(&["ingest", "m", &path("good.txt"), &path("empty.txt")]).fails(2, &["empty.txt"]);
    ran(&["ingest", "m", &path("good.txt"), &path("sub/good.txt")]).fails(2, &["good.txt", "--doc"]);
    ran(&["ingest", "m", &path("good.txt"), &path("empty.txt"), "--doc", "d"]).fails(2, &["--doc"]);
    ran(&["ingest", "m", &path("good.txt"), "--meta", "novalue"]).fails(2, &["KEY=VALUE"]);
    ran(&["score", "m", &path("latin1.txt")]).fails(2, &["byte 3"]);
    ran(&["score", "m", &path("empty.txt")]).fails(2, &["is empty"]);
    ran(&["score", "m", &path("good.txt"), "--context", &path("empty.txt")]).fails(2, &["is empty"]);
    ran(&["demo", "--file", &path("nothing.txt")]).fails(2, &["no file"]);
    ran(&["demo", "--tokens", "0"]).fails(2, &["--tokens"]);
    run(mnemon().args(["search", "m", "-"]), b"").fails(2, &["standard input is empty"]);
    run(mnemon().args(["generate", "m", "-"]), b"ab\xff").fails(2, &["standard input", "byte 2"]);
}

#[test]
fn what_the_server_refuses_is_told_with_its_own_code() {
    let server = Server::start(&["--limit", "memories=2", "--limit", "prompt_tokens=500"]);
    server.run(&["memory", "create", "one"]).succeeds();
    server.run(&["memory", "create", "one"]).fails(4, &["one"]);
    server.run(&["memory", "create", "no spaces please"]).fails(2, &["name"]);
    server.run(&["memory", "create", "two"]).succeeds();
    server.run(&["memory", "create", "three"]).fails(6, &["2"]);
    server.run(&["memory", "delete", "two"]).succeeds();

    server.run(&["memory", "show", "nope"]).fails(3, &["nope"]);
    server.run(&["memory", "delete", "nope"]).fails(3, &["nope"]);
    server.run(&["documents", "list", "nope"]).fails(3, &["nope"]);
    server.run(&["documents", "show", "one", "nope"]).fails(3, &["nope"]);
    server.run(&["documents", "delete", "one", "nope"]).fails(3, &["nope"]);
    server.run(&["search", "nope", "query"]).fails(3, &["nope"]);
    server.run(&["generate", "nope", "prompt"]).fails(3, &["nope"]);
    let file = server.file("story.txt", story(20));
    server.run(&["score", "nope", &file]).fails(3, &["nope"]);
    let missing = server.run(&["ingest", "nope", &file, "--json"]);
    missing.fails(3, &[]);
    let error = missing.error();
    assert!(error["hint"].as_str().unwrap().contains("mnemon memory create nope"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--create"));

    server.run(&["ingest", "one", &file]).succeeds();
    server.run(&["search", "one", ""]).fails(2, &["query"]);
    server.run(&["search", "one", "query", "-k", "0"]).fails(2, &["k"]);
    server.run(&["search", "one", "query", "-k", "4000000000"]).fails(2, &["1000"]);
    server.run(&["generate", "one", ""]).fails(2, &["prompt"]);
    server.run(&["generate", "one", "x", "--max-tokens", "0"]).fails(2, &["max_tokens"]);
    server.run(&["generate", "one", "x", "--max-tokens", "100000"]).fails(2, &["max_tokens"]);
    server.run(&["generate", "one", "x", "--top-k-chunks", "257"]).fails(2, &["top_k_chunks"]);
    server.run(&["generate", "one", "x", "--temperature", "-1"]).fails(2, &[]);
    server.run(&["generate", "one", &"word ".repeat(1_000)]).fails(2, &["prompt"]);

    // Invalid text on standard input: what came before it is kept, marked, and can be removed.
    server.run_with(&["ingest", "one", "-", "--doc", "bad"], b"\xff").fails(2, &["byte 0"]);
    server.run(&["documents", "show", "one", "bad"]).fails(3, &["bad"]);
    server.run_with(&["ingest", "one", "-", "--doc", "empty"], b"").fails(2, &["is empty"]);
    let mut long = story(4_000).into_bytes();
    let at = long.len();
    long.push(0xc3);
    let cut = server.run_with(&["ingest", "one", "-", "--doc", "cut"], &long);
    cut.fails(2, &[&format!("byte {at}")]);
    if let Some(document) = server.json(&["documents", "list", "one", "--json"])["documents"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["document_id"] == "cut")
    {
        assert_eq!(document["complete"], false);
    }
}

#[test]
fn a_memory_can_be_made_on_the_way() {
    let server = Server::start(&[]);
    let file = server.file("story.txt", story(5));
    let read = server.json(&["ingest", "new", &file, "--create", "--json"]);
    assert_eq!(read["memory"], "new");
    // Asking for it again is no error.
    let other = server.file("other.txt", story(6));
    server.run(&["ingest", "new", &other, "--create"]).succeeds();
}

#[test]
fn servers_say_why_they_do_not_start() {
    let server = Server::start(&[]);
    let taken = server.url.trim_start_matches("http://");
    let free_data = server.folder().join("other");
    run(mnemon().args(["serve", "--listen", taken, "--data"]).arg(&free_data), b"").fails(4, &[taken, "in use"]);
    let same_data = run(mnemon().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(server.data()), b"");
    same_data.fails(4, &["in use"]);
    let serve = |arguments: &[&str]| {
        run(mnemon().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&free_data).args(arguments), b"")
    };
    serve(&["--model", "/no/such/folder"]).fails(2, &["/no/such/folder"]);
    serve(&["--config", "/no/such/file.toml"]).fails(2, &["/no/such/file.toml"]);
    serve(&["--limit", "memories"]).fails(2, &["--limit", "NAME=NUMBER"]);
    serve(&["--limit", "memmories=3"]).fails(2, &["memmories"]);
    serve(&["--tls-cert", "cert.pem"]).fails(2, &["tls_key"]);
    run(mnemon().args(["serve", "--listen", "0.0.0.0:0", "--data"]).arg(&free_data), b"")
        .fails(2, &["allow_insecure_remote"]);
    let config = server.file("mnemon.toml", "lisen = '127.0.0.1:1'\n");
    serve(&["--config", &config]).fails(2, &["lisen"]);
}

#[test]
fn tokens_are_asked_for() {
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "[[tenants]]\nname = 'anna'\ntoken = '0123456789abcdef'\n").unwrap();
    let server = Server::start(&["--config", config.path().to_str().unwrap()]);
    server.run(&["memory", "list"]).fails(8, &["MNEMON_TOKEN"]);
    server.run(&["memory", "list", "--token", "not-the-right-token"]).fails(8, &[]);
    server.run(&["memory", "list", "--token", "0123456789abcdef"]).succeeds();
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let server = Server::start(&[]);
    server.run(&["memory", "create", "m"]).succeeds();
    for arguments in [&["memory", "list"][..], &["memory", "list", "--json"], &["--help"]] {
        let mut command = mnemon();
        command.env("MNEMON_SERVER", &server.url).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_server_that_dies_is_told_with_how_to_go_on() {
    let server = Server::start(&["--commit-tokens", "256"]);
    server.run(&["memory", "create", "m"]).succeeds();
    // Standard input stays open, so that the ingest is under way when the server is killed.
    let mut command = mnemon();
    command.env("MNEMON_SERVER", &server.url).args(["ingest", "m", "-", "--doc", "cut"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(story(2_000).as_bytes()).unwrap();
    stdin.flush().unwrap();
    let begun = Instant::now();
    while server.run(&["documents", "show", "m", "cut"]).code != 0 && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(server);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("connection"), "{said}");
    drop(stdin);
}
