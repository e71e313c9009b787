//! The main job, end to end, with the binary on both sides of the wire.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{ODD_LINE, Server, story};

/// One story, one server: what a user does in order.
#[test]
fn from_an_empty_folder_to_cited_answers_and_back() {
    let server = Server::start(&[]);
    assert_eq!(server.json(&["memory", "list", "--json"])["memories"].as_array().unwrap().len(), 0);

    let created = server.json(&["memory", "create", "tales", "--description", "of villages", "--json"]);
    assert_eq!(created["name"], "tales");
    assert_eq!(created["documents"], 0);
    assert!(created["geometry"]["chunk_tokens"].as_u64().unwrap() > 0);
    assert!(!created["fingerprint"].as_str().unwrap().is_empty());

    // From a file, with a name of its own and metadata.
    let story = story(120);
    let file = server.file("story.txt", &story);
    let read = server.json(&["ingest", "tales", &file, "--meta", "author=nobody", "--json"]);
    let document = &read["documents"][0];
    assert_eq!(document["document_id"], "story.txt");
    assert_eq!(document["bytes"], story.len());
    assert_eq!(document["complete"], true);
    let tokens = document["tokens"].as_u64().unwrap();
    assert!(tokens > 500, "{tokens}");

    // From standard input, then more of it.
    let said = server.run_with(&["ingest", "tales", "-", "--doc", "diary"], b"Rain all day. The roof holds.\n");
    assert!(said.succeeds().out.starts_with("diary: "), "{}", said.out);
    let more = server.run_with(&["ingest", "tales", "-", "--doc", "diary", "--append", "--json"], b"Sun again.\n");
    assert_eq!(more.value()["documents"][0]["bytes"], 41);

    // The same file again: refused, unless it is resumed, which finds nothing to do.
    let again = server.run(&["ingest", "tales", &file]);
    again.fails(4, &["story.txt", "--append", "--resume"]);
    let resumed = server.json(&["ingest", "tales", &file, "--resume", "--json"]);
    assert_eq!(resumed["documents"][0]["new_tokens"], 0);
    assert_eq!(resumed["documents"][0]["tokens"], tokens);

    documents_and_memories(&server, story.len());
    search(&server, &story);
    generate(&server);
    score(&server, &file);

    // Deleted is deleted.
    server.run(&["documents", "delete", "tales", "story.txt"]).succeeds();
    server.run(&["documents", "show", "tales", "story.txt"]).fails(3, &["story.txt"]);
    let left = server.json(&["search", "tales", "the captain of village", "--json"]);
    for hit in left["hits"].as_array().unwrap() {
        assert_eq!(hit["chunk"]["document_id"], "diary");
    }
    let deleted = server.json(&["memory", "delete", "tales", "--json"]);
    assert_eq!(deleted["deleted"]["memory"], "tales");
    server.run(&["memory", "show", "tales"]).fails(3, &["tales"]);

    assert_eq!(server.terminate(), Some(0));
}

fn documents_and_memories(server: &Server, story_bytes: usize) {
    let list = server.json(&["documents", "list", "tales", "--json"]);
    let names: Vec<&str> =
        list["documents"].as_array().unwrap().iter().map(|d| d["document_id"].as_str().unwrap()).collect();
    assert_eq!(names, ["diary", "story.txt"]);
    let shown = server.json(&["documents", "show", "tales", "story.txt", "--json"]);
    assert_eq!(shown["metadata"]["author"], "nobody");
    assert_eq!(shown["bytes"], story_bytes);

    let memory = server.json(&["memory", "show", "tales", "--json"]);
    assert_eq!(memory["documents"], 2);
    assert_eq!(memory["description"], "of villages");
    assert!(memory["stored_bytes"].as_u64().unwrap() > memory["text_bytes"].as_u64().unwrap());

    // For people: a heading and a line each, no colours in a pipe.
    let table = server.run(&["documents", "list", "tales"]);
    let lines: Vec<&str> = table.succeeds().out.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("DOCUMENT") && lines[2].starts_with("story.txt"), "{}", table.out);
    assert!(!table.out.contains('\x1b'));
    let colored = server.run(&["memory", "list", "--color", "always"]);
    assert!(colored.succeeds().out.contains('\x1b'));
    let shown = server.run(&["memory", "show", "tales"]);
    assert!(shown.succeeds().out.contains("2 documents"), "{}", shown.out);
}

fn search(server: &Server, story: &str) {
    let passage = ODD_LINE.trim_end();
    let at = story.find(passage).unwrap() as u64;
    for exact in [&["--exact"][..], &[]] {
        let arguments = [&["search", "tales", passage, "-k", "3", "--json"], exact].concat();
        let hits = server.json(&arguments);
        let hits = hits["hits"].as_array().unwrap();
        assert_eq!(hits.len(), 3);
        let span = &hits[0]["chunk"]["span"];
        let (start, end) = (span["byte_start"].as_u64().unwrap(), span["byte_end"].as_u64().unwrap());
        assert!(start < at + passage.len() as u64 && at < end, "{passage:?} at {at}, found {start} to {end}");
        assert!(hits[0]["score"].as_f64().unwrap() >= hits[1]["score"].as_f64().unwrap());
    }
    let shown = server.run_with(&["search", "tales", "-", "-k", "1"], passage.as_bytes());
    assert!(shown.succeeds().out.contains("story.txt"), "{}", shown.out);
}

fn generate(server: &Server) {
    let prompt = "On page 71 the";
    let arguments = ["generate", "tales", prompt, "--max-tokens", "8", "--json"];
    let answer = server.json(&arguments);
    assert!(answer["usage"]["generated_tokens"].as_u64().unwrap() <= 8);
    assert!(["max_tokens", "end_of_text"].contains(&answer["finish_reason"].as_str().unwrap()));
    let citations = answer["citations"].as_array().unwrap();
    assert!(!citations.is_empty());
    let weights: Vec<f64> = citations.iter().map(|c| c["weight"].as_f64().unwrap()).collect();
    assert!(weights.windows(2).all(|w| w[0] >= w[1]), "{weights:?}");
    assert!(weights.iter().sum::<f64>() <= 1.001, "{weights:?}");
    assert!(citations[0]["chunk"]["text"].as_str().is_some_and(|text| !text.is_empty()));

    // The same again is the same; without memory nothing is cited; --quiet is the text alone.
    assert_eq!(server.json(&arguments)["text"], answer["text"]);
    let alone = server.json(&[&arguments[..], &["--no-memory"]].concat());
    assert_eq!(alone["citations"].as_array().unwrap().len(), 0);
    let shown = server.run(&["generate", "tales", prompt, "--max-tokens", "8"]);
    assert!(shown.succeeds().out.contains("drew on"), "{}", shown.out);
    let quiet = server.run(&["generate", "tales", prompt, "--max-tokens", "8", "--quiet"]);
    assert_eq!(quiet.succeeds().out.trim_end_matches('\n'), answer["text"].as_str().unwrap().trim_end_matches('\n'));

    let sampled = ["generate", "tales", "-", "--temperature", "0.9", "--seed", "5", "--top-p", "0.95", "--json"];
    let sampled = [&sampled[..], &["--max-tokens", "6", "--top-k-chunks", "2", "--exact"]].concat();
    let first = server.run_with(&sampled, prompt.as_bytes()).value();
    assert_eq!(server.run_with(&sampled, prompt.as_bytes()).value()["text"], first["text"]);
}

fn score(server: &Server, file: &str) {
    let with = server.json(&["score", "tales", file, "--json"]);
    let without = server.json(&["score", "tales", file, "--no-memory", "--json"]);
    assert!(with["perplexity"].as_f64().unwrap() >= 1.0);
    assert!(with["recalled_chunks"].as_u64().unwrap() > 0);
    assert_eq!(without["recalled_chunks"], 0);
    assert_eq!(with["tokens"], without["tokens"]);
    let shown = server.run_with(&["score", "tales", "-"], b"On page 3 the clerk of village 10 lost a boat.");
    assert!(shown.succeeds().out.contains("perplexity"), "{}", shown.out);
}
