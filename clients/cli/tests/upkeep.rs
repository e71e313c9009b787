//! Commands that look after stored data: `check`, `compact`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Server, mnemon, run, story, text};

#[test]
fn damage_is_found_named_and_repaired() {
    let server = Server::start(&[]);
    let file = server.file("story.txt", story(40));
    server.run(&["ingest", "tales", &file, "--create"]).succeeds();
    let folder = text(&server.data());
    let check = |more: &[&str]| run(mnemon().args(["check", "--data", &folder]).args(more), b"");
    check(&[]).fails(4, &["in use"]);
    let kept = server.leave();
    let folder = text(&kept.path().join("data"));
    let check = |more: &[&str]| run(mnemon().args(["check", "--data", &folder]).args(more), b"");
    let sound = check(&["--json"]).value();
    assert_eq!((sound["sound"].as_bool(), sound["documents"].as_u64()), (Some(true), Some(1)));
    assert!(check(&[]).succeeds().out.contains("is sound: 1 memory, 1 document"));

    let blob = std::fs::read_dir(kept.path().join("data/blobs")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 16;
    std::fs::write(&blob, bytes).unwrap();
    let name = blob.file_name().unwrap().to_str().unwrap();
    check(&[]).fails(7, &["1 fault", "--repair"]);
    let found = check(&["--json"]);
    assert_eq!(found.code, 7);
    let report: serde_json::Value = serde_json::from_str(&found.out).unwrap();
    assert!(report["findings"][0]["what"].as_str().unwrap().contains(name), "{report}");
    assert_eq!(report["findings"][0]["document_id"], "story.txt");
    assert!(report["findings"][0]["lost"][0]["bytes"]["end"].as_u64().unwrap() > 0);
    let repaired = check(&["--repair"]);
    assert!(repaired.succeeds().out.contains("of document story.txt in memory default/tales"), "{}", repaired.out);
    check(&[]).succeeds();
    assert!(kept.path().join("data/damaged").join(name).exists());

    // The rest is there.
    let server = Server::start_in(kept, &[]);
    let shown = server.json(&["documents", "show", "tales", "story.txt", "--json"]);
    assert!(shown["lost_chunks"].as_u64().unwrap() > 0 || shown["complete"] == false, "{shown}");
    assert!(!server.json(&["search", "tales", "the captain", "--json"])["hits"].as_array().unwrap().is_empty());
    run(mnemon().args(["check", "--data", "/nowhere/at/all"]), b"").fails(2, &["data folder"]);
}

#[test]
fn what_was_deleted_is_compacted_away() {
    let server = Server::start(&[]);
    let story = story(60);
    let file = server.file("story.txt", &story);
    server.run(&["ingest", "tales", &file, "--create", "--doc", "a-name-to-forget"]).succeeds();
    server.run_with(&["ingest", "tales", "-", "--doc", "diary"], b"Rain all day. The roof holds.\n").succeeds();
    server.run_with(&["ingest", "tales", "-", "--doc", "diary", "--append"], b"Sun again.\n").succeeds();
    server.run(&["documents", "delete", "tales", "a-name-to-forget"]).succeeds();
    let done = server.json(&["compact", "tales", "--json"]);
    assert!(done["bytes_after"].as_u64().unwrap() <= done["bytes_before"].as_u64().unwrap(), "{done}");
    assert_eq!(done["files_after"], 1);
    assert!(server.run(&["compact"]).succeeds().err.contains("compacted all memories"));
    server.run(&["compact", "nothing"]).fails(3, &["nothing"]);
    for folder in ["catalog", "blobs"] {
        for entry in std::fs::read_dir(server.data().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
            for needle in [&b"a-name-to-forget"[..], &story.as_bytes()[..20]] {
                assert!(!bytes.windows(needle.len()).any(|window| window == needle), "{}", path.display());
            }
        }
    }
    // What is left is there, and can go on.
    server.run_with(&["ingest", "tales", "-", "--doc", "diary", "--append"], b"Wind.\n").succeeds();
    assert_eq!(server.json(&["documents", "show", "tales", "diary", "--json"])["bytes"], 47);
}
