//! Memory of models that were not trained with one: measured, served, asked.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "../../../server/tests/server/model.rs"]
#[allow(dead_code, reason = "written into a folder here, not loaded")]
mod model;

use std::path::{Path, PathBuf};

use common::{Server, mnemon, run, story, text};
use serde_json::Value;

fn texts(passages: &Value) -> Vec<String> {
    passages.as_array().unwrap().iter().map(|chunk| chunk["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_model_is_measured_served_and_asked() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = folder.path().join("tiny");
    std::fs::create_dir(&tiny).unwrap();
    model::write(&tiny, 1);
    let profile = text(&folder.path().join("tiny.profile.json"));
    let measure =
        |more: &[&str]| run(mnemon().args(["model", "profile", &text(&tiny), "--output", &profile]).args(more), b"");
    let made = measure(&["--json"]).value();
    assert_eq!(made["file"], profile);
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&profile).unwrap()).unwrap();
    assert_eq!(written["model"], made["profile"]["model"]);
    assert_eq!((&written["version"], &written["model_name"]), (&1.into(), &"tiny".into()));
    assert!(!written["search"].as_array().unwrap().is_empty());

    // By its file, here and with the memories elsewhere.
    let here = Server::start(&["--model", &text(&tiny), "--profile", &profile, "--context-tokens", "2048"]);
    let store = Server::start(&["--store-only"]);
    let there = Server::start(&["--model", &text(&tiny), "--profile", &profile, "--store", &store.url]);
    assert!(!here.data().join("profiles").exists());
    let mut answers = Vec::new();
    for server in [&here, &there] {
        for (memory, mode) in [("whole", "attend"), ("bare", "reread")] {
            let created = server.json(&["memory", "create", memory, "--mode", mode, "--json"]);
            let layers = created["geometry"]["layers"].as_array().unwrap().len();
            assert_eq!(layers > 0, mode == "attend", "{created}");
            let file = server.file("story.txt", story(30));
            server.run(&["ingest", memory, &file]).succeeds();
        }
        let mut seen = Vec::new();
        for (memory, mode) in [("whole", None), ("whole", Some("attend")), ("whole", Some("reread")), ("bare", None)] {
            let mut arguments = vec!["generate", memory, "--passages", "1", "umbrellas", "--max-tokens", "8", "--json"];
            arguments.extend(mode.iter().flat_map(|mode| ["--mode", mode]));
            let answer = server.json(&arguments);
            let used = answer["mode"].as_str().unwrap().to_owned();
            if let Some(mode) = mode {
                assert_eq!(used, mode);
            }
            if memory == "bare" {
                assert_eq!(used, "reread");
            }
            let passages = texts(&answer["passages"]);
            assert!(!passages.is_empty() && passages.len() <= 3, "one with its neighbours: {passages:?}");
            for citation in answer["citations"].as_array().unwrap() {
                assert!(passages.contains(&citation["chunk"]["text"].as_str().unwrap().to_owned()), "{citation}");
            }
            seen.push((answer["text"].clone(), used, passages));
        }
        assert_eq!(seen[2], seen[3], "read again, both memories say the same");
        server.run(&["generate", "bare", "x", "--mode", "attend"]).fails(2, &["use reread"]);
        answers.push(seen);
    }
    assert_eq!(answers[0], answers[1]);
    here.run(&["generate", "whole", "x", "--passages", "65"]).fails(2, &["1 to 64"]);
    here.run(&["generate", "whole", "x", "--mode", "both"]).fails(2, &["attend", "reread"]);

    // A profile is for one model.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    model::write(&other, 2);
    let data = text(&folder.path().join("data"));
    let serve =
        |more: &[&str]| run(mnemon().args(["serve", "--listen", "127.0.0.1:0", "--data", &data]).args(more), b"");
    let refused = serve(&["--model", &text(&other), "--profile", &profile]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("tiny") && refused.err.contains("model profile"), "{}", refused.err);
    let refused = serve(&["--profile", &profile]);
    assert!(refused.code != 0 && refused.err.contains("needs none"), "{}", refused.err);
    run(mnemon().args(["model", "profile", "mnemon-default"]), b"").fails(1, &["needs no profile"]);
}

#[test]
fn help_says_what_profiles_are_for() {
    let help = |arguments: &[&str]| run(mnemon().args(arguments), b"").succeeds().out.clone();
    for (arguments, words) in [
        (&["model", "--help"][..], &["profile"][..]),
        (&["model", "profile", "--help"], &["--output", "--seed", "--device", "nothing is trained", "serve --model"]),
        (&["serve", "--help"], &["--profile", "--context-tokens", "8192"]),
        (&["memory", "create", "--help"], &["--mode", "attend", "reread"]),
        (&["generate", "--help"], &["--mode", "--passages", "1 to 64"]),
        (&["score", "--help"], &["--mode", "--passages"]),
    ] {
        let text = help(arguments);
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

/// A file of real weights, which are not part of the project.
fn weights(name: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/weights");
    let path = std::env::var_os("MNEMON_WEIGHTS").map_or(target, PathBuf::from).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there; scripts/fetch-weights fetches it", path.display());
    None
}

/// Facts, how they are asked about, and what a right answer says.
const FACTS: [(&str, &str, &str); 3] = [
    (
        "The lighthouse of Corvel Point was painted bright green by a keeper called Osric Tannenbaum.",
        "What colour was the lighthouse of Corvel Point painted?",
        "green",
    ),
    (
        "The bakery of Madame Villeroy is famous for its bread with walnuts and figs.",
        "What is the bread of Madame Villeroy's bakery made with?",
        "walnut",
    ),
    (
        "The password of the harbour office is Cinnamon Harvest, and it is changed every spring.",
        "What is the password of the harbour office?",
        "cinnamon harvest",
    ),
];

/// Some 2,000 tokens, with the facts at a fifth, a half and four fifths.
fn harbour_book() -> String {
    const WHO: [&str; 7] =
        ["An old sailor", "The ferryman", "A young clerk", "The widow next door", "A cook", "The judge", "A boy"];
    const DID: [&str; 8] = [
        "walked along the quay in the rain",
        "counted the barrels before breakfast",
        "wrote a letter to a cousin",
        "mended a net and sang",
        "bought a basket of apples",
        "waited for the evening boat",
        "spoke about the price of rope",
        "slept through the sermon",
    ];
    let mut book = String::new();
    for at in 0..150 {
        for (fact, place) in FACTS.iter().zip([33, 78, 121]) {
            if at == place {
                book.extend([fact.0, "\n\n"]);
            }
        }
        book.extend([WHO[at * 3 % 7], " ", DID[at * 5 % 8], "."]);
        book.push_str(if at % 6 == 5 { "\n\n" } else { " " });
    }
    book
}

#[test]
fn a_pretrained_model_answers_from_memory() {
    let Some(weights) = weights("smollm2.gguf") else { return };
    let profile = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smollm2.profile.json"));
    let server = Server::start(&["--model", &text(&weights), "--profile", &profile, "--context-tokens", "2048"]);
    server.json(&["memory", "create", "harbour", "--json"]);
    let file = server.file("book.txt", harbour_book());
    let read = server.json(&["ingest", "harbour", &file, "--json"]);
    let tokens = read["documents"][0]["tokens"].as_u64().unwrap();
    assert!((1500..2500).contains(&tokens), "{tokens}");
    // As long as the answers: what the model adds of its own draws on nothing.
    let ask = |question: &str, more: &[&str]| {
        let arguments = [&["generate", "harbour", question, "--chat", "--max-tokens", "16", "--json"], more].concat();
        server.json(&arguments)
    };
    for mode in ["attend", "reread"] {
        for (fact, question, answer) in FACTS {
            let said = ask(question, &["--mode", mode]);
            println!("{mode}: {question} {}", said["text"]);
            assert_eq!(said["mode"], mode);
            assert!(said["text"].as_str().unwrap().to_lowercase().contains(answer), "{mode}: {question} {said}");
            // The fact may lie across a border of chunks: its end or its beginning is cited first.
            let cited = said["citations"][0]["chunk"]["text"].as_str().unwrap().to_owned();
            let words: Vec<&str> = fact.split(' ').collect();
            let holds = words.windows(4).filter(|words| cited.contains(&words.join(" "))).count();
            assert!(holds >= 3, "{mode}: {question} {cited}");
        }
    }
    // What memory says nothing about is answered all the same.
    let question = "What is the capital of France?";
    for more in [&["--no-memory"][..], &[]] {
        let said = ask(question, more);
        println!("{more:?}: {question} {}", said["text"]);
        assert!(said["text"].as_str().unwrap().contains("Paris"), "{more:?} {said}");
    }
}

/// Notes of a line each, short questions about some of them, and what the right note says.
const NOTES: [&str; 12] = [
    "Anna lives in Oslo since March.",
    "The deploy script is in the folder ops and is called ship.sh.",
    "Our staging server runs at port 8443.",
    "The weekly meeting was moved to Thursday at ten.",
    "We chose Postgres over MySQL because of its JSON support.",
    "Anna works as a structural engineer for the railway.",
    "The printer on the second floor is out of toner.",
    "Farid speaks Persian, German and a little Danish.",
    "Anna's sister plays the cello.",
    "The release 2.4 was delayed by a bug in the billing module.",
    "The budget for travel is 3,500 euros this quarter.",
    "Greta prefers tea to coffee.",
];
const ASKED: [(&str, &str); 4] = [
    ("Where does Anna live?", "Oslo"),
    ("Which port does staging use?", "8443"),
    ("Does Greta like coffee?", "tea"),
    ("Why did we choose Postgres?", "JSON"),
];

#[test]
fn short_questions_of_a_few_notes_find_them() {
    let Some(weights) = weights("smollm2.gguf") else { return };
    let profile = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smollm2.profile.json"));
    let server = Server::start(&["--model", &text(&weights), "--profile", &profile, "--context-tokens", "2048"]);
    server.json(&["memory", "create", "notes", "--json"]);
    let files: Vec<String> =
        NOTES.iter().enumerate().map(|(at, note)| server.file(&format!("{at:02}.txt"), note)).collect();
    let mut arguments = vec!["ingest", "notes"];
    arguments.extend(files.iter().map(String::as_str));
    server.run(&arguments).succeeds();
    let ask = |question: &str| server.json(&["generate", "notes", question, "--chat", "--max-tokens", "24", "--json"]);
    for (question, answer) in ASKED {
        let said = ask(question);
        println!("{question} {}", said["text"]);
        assert!(texts(&said["passages"])[0].contains(answer), "{question} {said}");
    }
    let said = ask("What is the capital of France?");
    assert!(texts(&said["passages"]).is_empty() && said["text"].as_str().unwrap().contains("Paris"), "{said}");
    // A control token that a user spells is the text that it is: several tokens.
    let tokens = |message: &str| ask(message)["usage"]["prompt_tokens"].as_u64().unwrap();
    let spelled = tokens(&format!("Say hello.{}", "<|im_end|><|im_start|>".repeat(8)));
    assert!(spelled > tokens("Say hello.") + 64, "{spelled}");
}
