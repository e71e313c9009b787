//! Every measurement on a text small enough for a test: that it runs, and that its numbers make sense.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{mnemon, run, story};
use serde_json::Value;
use tempfile::TempDir;

/// Two books in which memory pays: each says again much of what it said before.
fn novels() -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, pages) in [("first", 700), ("second", 650)] {
        fs::write(folder.path().join(name).with_extension("txt"), story(pages)).unwrap();
    }
    folder
}

/// Runs a measurement on the books; returns its results.
fn bench(name: &str, novels: &Path, arguments: &[&str]) -> Value {
    let out = TempDir::new().unwrap();
    let mut command = mnemon();
    command.args(["bench", name, "--novels"]).arg(novels).arg("--out").arg(out.path()).args(arguments);
    run(&mut command, b"").succeeds();
    let svg = fs::read_to_string(out.path().join(name).with_extension("svg")).unwrap();
    assert!(svg.contains("<circle") && svg.ends_with("</svg>\n"));
    let report: Value =
        serde_json::from_slice(&fs::read(out.path().join(name).with_extension("json")).unwrap()).unwrap();
    assert!(report["command"].as_str().unwrap().contains(name) && report["model"]["parameters"].as_u64().unwrap() > 0);
    report["results"].clone()
}

#[test]
fn perplexity_falls_with_memory() {
    let novels = novels();
    let arguments = ["--memory", "0,1k", "--passages", "2", "--tokens", "120", "--context", "60", "--full", "200"];
    let results = bench("perplexity", novels.path(), &arguments);
    let (none, some) = (&results["overall"][0], &results["overall"][1]);
    assert!(some["perplexity"].as_f64().unwrap() < none["perplexity"].as_f64().unwrap(), "{results}");
    // Nothing is sealed yet: both are one scan.
    assert_eq!(some["index_against_exact_percent"], 0.0);
    assert!(results["full_attention"]["perplexity"].as_f64().unwrap() > 1.0);
    assert_eq!(results["passages"].as_array().unwrap().len(), 2);
}

#[test]
fn fewer_bits_take_fewer_bytes() {
    let novels = novels();
    let results = bench("pareto", novels.path(), &["--tokens", "800", "--passages", "1", "--facts", "3"]);
    let points = results["points"].as_array().unwrap();
    let bytes = |shape: &str| {
        let point = points.iter().find(|point| point["memory"] == shape).expect(shape);
        point["stored_bytes_per_token"].as_f64().unwrap()
    };
    let sizes = ["stored as int4", "as the model says", "stored as f16", "stored as f32"].map(bytes);
    assert!(sizes.windows(2).all(|pair| pair[0] < 0.75 * pair[1]), "{sizes:?}");
    assert!(points.iter().any(|point| point["on_the_frontier"] == true));
}

#[test]
fn facts_come_back_with_memory_alone() {
    let novels = novels();
    let results = bench("recall", novels.path(), &["--tokens", "3k", "--facts", "6", "--revised", "2"]);
    let history = &results["histories"][0];
    assert_eq!((&history["exact_percent"], &history["exact_without_memory_percent"]), (&100.0.into(), &0.0.into()));
    assert_eq!(history["by_depth"].as_array().unwrap().len(), 6);
}

#[test]
fn position_schemes_are_compared() {
    let novels = novels();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/extrapolation");
    let arguments = ["--models", models.to_str().unwrap(), "--lengths", "1,4", "--passages", "4"];
    let results = bench("extrapolation", novels.path(), &arguments);
    let perplexity = |scheme: usize, length: usize, how: &str| {
        results["schemes"][scheme]["perplexity"][length][how].as_f64().unwrap_or_else(|| panic!("{results}"))
    };
    for scheme in [0, 1, 3] {
        // Up to the length in training both read the same tokens; beyond it, this text says again what memory holds.
        let (full, memory) = (perplexity(scheme, 0, "full_attention"), perplexity(scheme, 0, "window_and_memory"));
        assert!((full / memory - 1.0).abs() < 1e-3, "{full} {memory}");
        assert!(perplexity(scheme, 1, "window_and_memory") < perplexity(scheme, 0, "window_and_memory"));
    }
    assert!(perplexity(0, 1, "full_attention") > perplexity(0, 1, "window_and_memory"));
}

/// Runs a measurement that has neither books nor a plot; returns its results.
fn bench_alone(name: &str, arguments: &[&str]) -> Value {
    let out = TempDir::new().unwrap();
    let mut command = mnemon();
    command.args(["bench", name, "--out"]).arg(out.path()).args(arguments);
    run(&mut command, b"").succeeds();
    let report = fs::read(out.path().join(name).with_extension("json")).unwrap();
    serde_json::from_slice::<Value>(&report).unwrap()["results"].clone()
}

#[test]
fn the_index_is_measured_on_a_text_and_on_clusters() {
    let novels = novels();
    let text = novels.path().join("first.txt");
    let arguments = ["--entries", "3k", "--queries", "50", "--peers", "none", "--text", text.to_str().unwrap()];
    let results = bench_alone("index", &arguments);
    for set in results["sets"].as_array().unwrap() {
        let own = &set["indexes"][0];
        assert_eq!(own["name"], "mnemon");
        let last = own["rows"].as_array().unwrap().last().unwrap();
        assert!(last["recall"].as_f64().unwrap() >= 0.99, "{set}");
        assert!(own["scan"]["recall"].as_f64().unwrap() >= 0.99, "{set}");
        assert!((128.0..500.0).contains(&own["bytes_per_entry"].as_f64().unwrap()), "{set}");
    }
    assert_eq!(results["sets"].as_array().unwrap().len(), 2);
}

#[test]
fn the_store_is_measured_alone() {
    let results = bench_alone("store", &["--tokens", "70k", "--commits", "3"]);
    let whole = &results["whole"];
    assert!(whole["unsealed_entries"].as_u64().unwrap() < 65_536 && whole["graph_bytes"].as_f64().unwrap() > 100.0);
    assert!((100.0..200.0).contains(&whole["chunk_bytes"].as_f64().unwrap()), "{whole}");
    assert_eq!(whole["probes"].as_array().unwrap().len(), 5);
    assert_eq!(results["appends"].as_array().unwrap().len(), 3);
}

#[test]
fn the_service_is_measured_without_its_peer() {
    let arguments = [
        "--entries",
        "2k",
        "--queries",
        "20",
        "--clients",
        "1,2",
        "--seconds",
        "0.1",
        "--rounds",
        "1",
        "--python",
        "none",
    ];
    let results = bench_alone("service", &arguments);
    assert!(results["servers"]["mnemon"]["recall"].as_f64().unwrap() >= 0.99, "{results}");
    let loads = results["loads"].as_array().unwrap();
    assert_eq!(loads.len(), 2);
    for load in loads {
        assert!(load["servers"]["mnemon"]["calls_per_second"].as_f64().unwrap() > 0.0, "{load}");
    }
}

/// The line of a table about a task and a row at a size.
fn line<'r>(results: &'r Value, tokens: u64, task: &str, row: &str) -> Option<&'r Value> {
    let is_it = |line: &&Value| line["tokens"] == tokens && line["task"] == task && line["row"] == row;
    results["table"].as_array().unwrap().iter().find(is_it)
}

#[test]
fn needles_are_asked_in_every_way_and_runs_are_pooled() {
    let (novels, out) = (novels(), TempDir::new().unwrap());
    let tasks = "single,natural,multi-value,updated,absent";
    let rows = "auto,bm25,bm25+neighbours,minilm,oracle,full,nothing";
    let arguments = [
        "--tokens",
        "1500,3k",
        "--haystacks",
        "1",
        "--items",
        "2",
        "--tasks",
        tasks,
        "--rows",
        rows,
        "--full-tokens",
        "2k",
    ];
    let first = bench("needle", novels.path(), &arguments);
    for tokens in [1_500, 3_000] {
        for row in ["auto", "bm25", "bm25+neighbours", "oracle", "nothing"] {
            assert_eq!(line(&first, tokens, "all", row).unwrap()["n"], 8, "{row}");
        }
        // The oracle shows the needles, so they stand where the haystack says.
        assert_eq!(line(&first, tokens, "all", "oracle").unwrap()["found"]["percent"], 100.0);
        assert_eq!(line(&first, tokens, "single", "bm25+neighbours").unwrap()["found"]["percent"], 100.0);
        assert!(line(&first, tokens, "absent", "oracle").is_none());
    }
    // Beyond the length in training nothing is asked of the whole.
    assert!(line(&first, 1_500, "all", "full").is_some() && line(&first, 3_000, "all", "full").is_none());
    assert!(line(&first, 1_500, "all", "minilm").is_none() && first["skipped_rows"]["minilm"].is_string());
    assert!(first["differences"].as_array().unwrap().iter().any(|d| d["memory"] == "auto" && d["against"] == "bm25"));

    // The same haystack by other rows, and another haystack: asked by another process, over memories that stay.
    let data = out.path().join("data");
    let mut files = Vec::new();
    for (number, rows) in [("0", "bm25"), ("0", "nothing"), ("1", "bm25")] {
        let folder = out.path().join(files.len().to_string());
        let mut command = mnemon();
        command.args(["bench", "needle", "--tokens", "1500", "--haystacks", "1", "--items", "2", "--tasks", "single"]);
        command.args(["--first-haystack", number, "--rows", rows, "--keep", "--novels"]).arg(novels.path());
        run(command.arg("--data").arg(&data).arg("--out").arg(&folder), b"").succeeds();
        files.push(folder.join("needle.json"));
    }
    let mut command = mnemon();
    command.args(["bench", "needle", "--out"]).arg(out.path()).arg("--pool").args(&files);
    run(&mut command, b"").succeeds();
    let pooled: Value = serde_json::from_slice(&fs::read(out.path().join("needle.json")).unwrap()).unwrap();
    assert_eq!(line(&pooled["results"], 1_500, "single", "bm25").unwrap()["n"], 4);
    assert_eq!(line(&pooled["results"], 1_500, "single", "nothing").unwrap()["n"], 2);
    let again = run(command.arg(&files[0]), b"");
    assert!(again.code != 0 && again.err.contains("in two files"), "{}", again.err);
}

#[test]
fn stories_are_scattered_in_novels() {
    let (novels, babi) = (novels(), TempDir::new().unwrap());
    let story = "1 John travelled to the hallway.\n2 Mary journeyed to the bathroom.\n3 Where is John? |hallway|1\n\
        4 John moved to the bedroom.\n5 Where is Mary? |bathroom|2\n6 Where is John? |bedroom|4\n";
    fs::write(babi.path().join("qa1_test.txt"), story).unwrap();
    let folder = babi.path().to_str().unwrap();
    let arguments =
        ["--babi", folder, "--tokens", "800,1600", "--tasks", "1", "--stories", "1", "--rows", "auto,bm25,oracle"];
    let results = bench("babilong", novels.path(), &arguments);
    for tokens in [800, 1_600] {
        for row in ["auto", "bm25", "oracle"] {
            assert_eq!(line(&results, tokens, "qa1", row).unwrap()["n"], 2, "{results}");
        }
        assert_eq!(line(&results, tokens, "qa1", "oracle").unwrap()["found"]["percent"], 100.0);
    }
}
