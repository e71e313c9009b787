//! `export`, `import`, `reencode`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::process::Stdio;

use common::{ODD_LINE, Server, mnemon, story, text};

#[test]
fn a_memory_becomes_a_file_and_a_memory_again() {
    let server = Server::start(&[]);
    let file = server.file("story.txt", story(30));
    server.run(&["ingest", "tales", &file, "--create", "--meta", "lang=en"]).succeeds();
    let archive = text(&server.folder().join("tales.mnemon"));
    let done = server.json(&["export", "tales", "-o", &archive, "--json"]);
    assert_eq!(done["bytes"].as_u64(), Some(std::fs::metadata(&archive).unwrap().len()));
    assert_eq!(done["documents"], 1);
    server.run(&["export", "tales", "-o", &archive]).fails(4, &["exists already", "--force"]);
    assert!(server.run(&["export", "tales", "-o", &archive, "--force"]).succeeds().err.contains("exported tales"));
    server.run(&["export", "nothing", "-o", &text(&server.folder().join("no"))]).fails(3, &["nothing"]);
    // Nothing is left of what failed.
    let hidden = |entry: &std::fs::DirEntry| entry.file_name().to_str().unwrap().starts_with('.');
    assert_eq!(std::fs::read_dir(server.folder()).unwrap().filter(|entry| hidden(entry.as_ref().unwrap())).count(), 0);

    server.run(&["import", &archive]).fails(4, &["exists already", "--as NAME"]);
    let copy = server.json(&["import", &archive, "--as", "copy", "--json"]);
    assert_eq!((copy["name"].as_str(), copy["documents"].as_u64()), (Some("copy"), Some(1)));
    assert!(server.run(&["import", &archive, "--replace"]).succeeds().err.contains("imported memory tales"));
    let found = |memory: &str| {
        let hits = server.json(&["search", memory, ODD_LINE, "-k", "3", "--json"])["hits"].clone();
        hits.as_array()
            .unwrap()
            .iter()
            .map(|hit| (hit["chunk"]["text"].clone(), hit["score"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(found("copy"), found("tales"));
    assert_eq!(server.json(&["documents", "show", "copy", "story.txt", "--json"])["metadata"]["lang"], "en");

    let whole = std::fs::read(&archive).unwrap();
    let cut = server.file("cut.mnemon", &whole[..whole.len() / 2]);
    server.run(&["import", &cut, "--as", "cut"]).fails(2, &["cut short", "nothing was imported"]);
    server.run(&["import", &file, "--as", "text"]).fails(2, &["not an archive"]);
    server.run(&["import", "/nowhere/at.all"]).fails(2, &["/nowhere/at.all"]);
    // Through a pipe.
    let mut command = mnemon();
    command.env("MNEMON_SERVER", &server.url).args(["export", "tales", "-o", "-"]).stdout(Stdio::piped());
    let piped = command.output().unwrap();
    assert!(piped.status.success() && piped.stdout == std::fs::read(&archive).unwrap());
    server.run_with(&["import", "-", "--as", "piped"], &piped.stdout).succeeds();
    server.run(&["export", "tales", "-o", "-", "--json"]).fails(2, &["-o FILE"]);
}

#[test]
fn a_memory_of_another_model_is_read_again() {
    let server = Server::start(&["--kv-dtype", "f16"]);
    let file = server.file("story.txt", story(30));
    server.run(&["ingest", "tales", &file, "--create", "--meta", "lang=en"]).succeeds();
    let server = Server::start_in(server.leave(), &[]);
    server.run(&["search", "tales", "the captain"]).fails(4, &["mnemon reencode tales --replace"]);
    server.run(&["reencode", "tales"]).fails(2, &["--into"]);
    let done = server.json(&["reencode", "tales", "--into", "tales-2", "--json"]);
    assert_eq!((done["memory"].as_str(), done["documents"].as_u64()), (Some("tales-2"), Some(1)));
    assert!(server.run(&["reencode", "tales", "--replace"]).succeeds().err.contains("is of the model being served"));
    server.run(&["reencode", "tales", "--replace"]).fails(4, &["nothing to re-encode"]);
    for memory in ["tales", "tales-2"] {
        let hits = server.json(&["search", memory, ODD_LINE, "-k", "1", "--json"])["hits"].clone();
        assert!(hits[0]["chunk"]["text"].as_str().unwrap().contains("umbrellas"), "{hits}");
        assert_eq!(server.json(&["documents", "show", memory, "story.txt", "--json"])["metadata"]["lang"], "en");
    }
}
