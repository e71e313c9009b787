//! The demo, small: whatever the model answers, everything is there and nothing is left behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{mnemon, run, story};
use serde_json::Value;

fn pair(value: &Value) -> [f64; 2] {
    [value["with_memory"].as_f64().unwrap(), value["without_memory"].as_f64().unwrap()]
}

#[test]
fn a_generated_history_is_asked_about_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(mnemon().env("TMPDIR", folder.path()).args(["demo", "--tokens", "3000", "--json"]), b"");
    let demo = ran.value();
    assert_eq!(demo["history"]["kind"], "generated");
    let questions = demo["questions"].as_array().unwrap();
    assert_eq!(questions.len(), 8);
    assert_eq!(questions[0]["depth"], 0.0);
    assert!(questions[7]["depth"].as_f64().unwrap() > 0.9);
    let exact = questions.iter().filter(|q| q["with_memory"]["exact"] == true).count();
    assert_eq!(pair(&demo["measures"]["exact_answers"])[0] as usize, exact);
    for question in questions {
        let [expected, said] = [&question["expected"], &question["with_memory"]["text"]].map(|v| v.as_str().unwrap());
        assert_eq!(question["with_memory"]["exact"] == true, said.contains(expected), "{question}");
        assert!(question["without_memory"]["citations"].as_array().unwrap().is_empty());
    }
    let read = demo["measures"]["ingest"]["tokens"].as_f64().unwrap();
    assert!((2_000.0..6_000.0).contains(&read), "{read} tokens");
    assert!(pair(&demo["measures"]["perplexity"]).iter().all(|p| *p >= 1.0));
    assert!(pair(&demo["measures"]["decode_ms_per_token"]).iter().all(|ms| *ms > 0.0));
    assert!(demo["memory"]["stored_bytes_per_token"].as_f64().unwrap() > 0.0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the temporary folder is gone");
}

#[test]
fn a_file_of_the_user_is_searched_and_continued() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("story.txt");
    std::fs::write(&file, story(240)).unwrap();
    let ran = run(mnemon().args(["demo", "--json", "--file"]).arg(&file), b"");
    let demo = ran.value();
    assert_eq!(demo["history"]["kind"], "file");
    assert_eq!(demo["searches"].as_array().unwrap().len(), 5);
    assert_eq!(demo["continuations"].as_array().unwrap().len(), 3);
    assert!(demo["history"]["held_back_bytes"].as_u64().unwrap() > 0);

    std::fs::write(&file, "too short").unwrap();
    run(mnemon().args(["demo", "--file"]).arg(&file), b"").fails(2, &["too little"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let folder = tempfile::tempdir().unwrap();
    let mut command = mnemon();
    command.env("TMPDIR", folder.path()).args(["demo", "--tokens", "2000000"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while std::fs::read_dir(folder.path()).unwrap().count() == 0 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the temporary folder is gone");
}
