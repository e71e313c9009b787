//! Memory of a pretrained model with a profile: passages by attention, by words, attended to or read again.

use std::sync::Arc;

use mnemon_client::{Client, Code, IngestMode, IngestOptions, v1};
use mnemon_memory_store::{SledOptions, SledStorage};
use mnemon_runtime::{Measured, Model, PROFILE_VERSION, Profile, QueryHead, RecallMode, SearchHead};
use mnemon_server::{Embedded, Server, Settings, bind};
use tempfile::TempDir;

use crate::model;
use crate::world::*;

/// A profile made by hand: nothing retrieves in a random model, so words decide unless told otherwise.
fn profile(model: &Model, heads: &[(u32, u32)]) -> Profile {
    let head = |&(layer, head): &(u32, u32)| SearchHead {
        query: QueryHead { layer, head },
        weight: 1.0,
        mean: vec![0.0; model.config().head_dim],
        reciprocal_rank: 0.5,
    };
    Profile {
        version: PROFILE_VERSION,
        model: model.base_fingerprint(),
        model_name: model.name().to_owned(),
        seed: 0,
        kv_layers: vec![0, 1],
        search: heads.iter().map(head).collect(),
        attention_weight: 0.1,
        lexical_weight: 1.0,
        passages: 2,
        neighbours: 1,
        mode: RecallMode::Attend,
        mode_of_several: None,
        extents: mnemon_runtime::Extents::default(),
        measured: Measured::default(),
    }
}

/// The model of the other tests, with a profile of these heads.
fn with_heads(heads: &[(u32, u32)]) -> Arc<Model> {
    with(|model| profile(model, heads))
}

fn with(make: impl FnOnce(&Model) -> Profile) -> Arc<Model> {
    let mut model = model::load(1);
    let profile = make(&model);
    model.set_profile(profile).unwrap();
    Arc::new(model)
}

async fn serve_on(data: &TempDir, model: Arc<Model>) -> (Embedded, Client) {
    let storage = SledStorage::open(data.path(), SledOptions::default()).unwrap();
    let server = serve_model(settings(data.path()), Arc::new(storage), model).await;
    let client = connect(&server).await;
    (server, client)
}

async fn create(client: &Client, name: &str, mode: v1::RecallMode) -> v1::Memory {
    let message = v1::CreateMemoryRequest { name: name.into(), mode: mode.into(), ..Default::default() };
    client.create_memory_with(message).await.unwrap()
}

/// What was generated, and how it ended.
async fn generated(client: &Client, prompt: &str, memory: v1::MemoryOptions) -> (String, v1::GenerateFinish) {
    let request =
        v1::GenerateRequest { prompt: prompt.into(), memory: Some(memory), max_tokens: Some(12), ..Default::default() };
    let mut answer = client.generate(request).await.unwrap();
    let (mut text, mut finish) = (String::new(), None);
    while let Some(message) = patiently(answer.message()).await.unwrap() {
        text.push_str(&message.text);
        finish = message.finish.or(finish);
    }
    (text, finish.unwrap())
}

fn texts(finish: &v1::GenerateFinish) -> Vec<String> {
    finish.passages.iter().map(|chunk| chunk.text.clone()).collect()
}

const ODD: &str = "0123456789";

/// A text with something odd in its middle: digits, which stand nowhere else.
fn odd_text(seed: u64) -> String {
    let text = text(seed, 3000);
    format!("{}{ODD}{}", &text[..1504], &text[1504..])
}

#[tokio::test]
async fn passages_reach_the_model_in_two_ways() {
    let (data, text) = (tempfile::tempdir().unwrap(), odd_text(90));
    let (_server, client) = serve_on(&data, with_heads(&[(0, 1), (1, 2)])).await;
    let whole = create(&client, "whole", v1::RecallMode::Unspecified).await;
    let attend = create(&client, "attend", v1::RecallMode::Attend).await;
    let bare = create(&client, "bare", v1::RecallMode::Reread).await;
    assert_eq!((&whole.fingerprint, &whole.geometry), (&attend.fingerprint, &attend.geometry));
    assert_ne!(whole.fingerprint, bare.fingerprint);
    assert_eq!((whole.geometry.unwrap().layers.len(), bare.geometry.unwrap().layers.len()), (2, 0));
    for memory in ["whole", "bare"] {
        ingest(&client, memory, "d", &text).await;
    }
    let stored = |memory: v1::Memory| memory.stored_bytes;
    // Searching goes by what a memory keeps.
    for memory in ["whole", "bare"] {
        let hits = client.search(&[memory], &text[1480..1530], 3, true).await.unwrap();
        let found = hits[0].chunk.as_ref().unwrap();
        // Without keys to compare, a random model's votes are all there is.
        assert!(memory == "bare" || text[1480..1530].contains(&found.text[..4]), "{memory}: {found:?}");
        assert!(hits.len() == 3 && hits.iter().all(|hit| (0.0..=1.0).contains(&hit.score)), "{hits:?}");
    }
    let sizes = (stored(client.get_memory("whole").await.unwrap()), stored(client.get_memory("bare").await.unwrap()));
    assert!(sizes.1 * 2 < sizes.0, "{sizes:?}");

    let (plain, alone) = generated(&client, ODD, without_memory()).await;
    assert_eq!((alone.mode(), alone.passages.len(), alone.citations.len()), (v1::RecallMode::Unspecified, 0, 0));
    let options = |memory: &str, mode: v1::RecallMode| v1::MemoryOptions { mode: mode.into(), ..from(&[memory]) };
    let mut answers = Vec::new();
    for (memory, asked, used) in [
        ("whole", v1::RecallMode::Unspecified, v1::RecallMode::Attend),
        ("whole", v1::RecallMode::Attend, v1::RecallMode::Attend),
        ("whole", v1::RecallMode::Reread, v1::RecallMode::Reread),
        ("bare", v1::RecallMode::Unspecified, v1::RecallMode::Reread),
        ("bare", v1::RecallMode::Reread, v1::RecallMode::Reread),
    ] {
        let (text, finish) = generated(&client, ODD, options(memory, asked)).await;
        assert_eq!(finish.mode(), used, "{memory} {asked:?}");
        // The digits stand in one chunk, or at the border of two: best first, with its neighbours.
        let passages = texts(&finish);
        assert!(passages[..3].concat().contains(ODD), "{passages:?}");
        assert!(passages.len() <= 6, "{passages:?}");
        // What is cited was there.
        assert!(!finish.citations.is_empty());
        let total: f32 = finish.citations.iter().map(|citation| citation.weight).sum();
        assert!(total > 0.0 && total <= 1.0 + 1e-4, "{total}");
        for citation in &finish.citations {
            let chunk = citation.chunk.as_ref().unwrap();
            let mut of_it = finish.passages.iter().filter(|passage| passage.chunk_id == chunk.chunk_id);
            let is_shown = of_it.next().is_some_and(|passage| chunk.text.contains(&passage.text));
            assert!(is_shown && chunk.document_id == "d", "{chunk:?}");
        }
        answers.push((text, passages));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[2], answers[3]);
    assert_eq!(answers[2], answers[4]);
    assert!(answers.iter().any(|answer| answer.0 != plain), "{plain}");

    // Fewer and more of them.
    for (passages, neighbours, most) in [(1, 0, 1), (1, 2, 5), (4, 0, 4)] {
        let options = v1::MemoryOptions {
            passages: Some(passages),
            neighbours: Some(neighbours),
            ..options("whole", v1::RecallMode::Reread)
        };
        let found = texts(&generated(&client, ODD, options).await.1);
        assert!(!found.is_empty() && found.len() <= most, "{passages} {neighbours}: {found:?}");
    }
    let score = client.score(&text[1400..1600], from(&["whole"])).await.unwrap();
    assert!(score.log_probability < 0.0 && score.recalled_chunks > 0);
}

#[tokio::test]
async fn what_leaves_a_long_prompt_is_recalled() {
    let data = tempfile::tempdir().unwrap();
    let storage = SledStorage::open(data.path(), SledOptions::default()).unwrap();
    let settings = Settings { context_tokens: 256, ..settings(data.path()) };
    let server = serve_model(settings, Arc::new(storage), with_heads(&[(0, 1), (1, 2)])).await;
    let client = connect(&server).await;
    create(&client, "whole", v1::RecallMode::Unspecified).await;
    ingest(&client, "whole", "d", &text(91, 2000)).await;
    let long = format!("{}{ODD}", odd_text(90));
    let (_, short) = generated(&client, ODD, without_memory()).await;
    assert_eq!(short.mode(), v1::RecallMode::Unspecified, "it fits");
    for memory in [without_memory(), from(&["whole"])] {
        let (_, finish) = generated(&client, &long, memory).await;
        assert_eq!(finish.mode(), v1::RecallMode::Reread, "what was read for this request keeps no keys and values");
        let tokens = finish.usage.unwrap().prompt_tokens;
        assert!((100..256).contains(&tokens), "{tokens}");
        assert!(finish.passages.iter().all(|chunk| chunk.memory == "whole"), "the prompt itself is not cited");
    }
}

#[tokio::test]
async fn what_a_memory_or_a_request_cannot_have_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let (_server, client) = serve_on(&data, with_heads(&[(0, 1)])).await;
    create(&client, "bare", v1::RecallMode::Reread).await;
    ingest(&client, "bare", "d", &text(91, 600)).await;
    let refused = async |memory: v1::MemoryOptions| {
        let request = v1::GenerateRequest { prompt: "text".into(), memory: Some(memory), ..Default::default() };
        match client.generate(request).await {
            Err(error) => error,
            Ok(mut answer) => loop {
                match answer.message().await {
                    Ok(message) => assert!(message.is_some(), "it is not refused"),
                    Err(error) => break error,
                }
            },
        }
    };
    let bare = from(&["bare"]);
    let attend = v1::MemoryOptions { mode: v1::RecallMode::Attend.into(), ..bare.clone() };
    let error = refused(attend).await;
    assert_status(&error, Code::InvalidArgument, "use reread, or re-encode the memory", "");
    for passages in [0, 65, u32::MAX] {
        let error = refused(v1::MemoryOptions { passages: Some(passages), ..bare.clone() }).await;
        assert_status(&error, Code::InvalidArgument, "1 to 64", "memory.passages");
    }
    for neighbours in [17, u32::MAX] {
        let error = refused(v1::MemoryOptions { neighbours: Some(neighbours), ..bare.clone() }).await;
        assert_status(&error, Code::InvalidArgument, "0 to 16", "memory.neighbours");
    }
    for mode in [3, -1] {
        let error = refused(v1::MemoryOptions { mode, ..bare.clone() }).await;
        assert_status(&error, Code::InvalidArgument, "2 (reread)", "memory.mode");
        let message = v1::CreateMemoryRequest { name: "other".into(), mode, ..Default::default() };
        let error = client.create_memory_with(message).await.unwrap_err();
        assert_status(&error, Code::InvalidArgument, "2 (reread)", "mode");
    }
}

#[tokio::test]
async fn passages_are_chosen_by_heads_a_search_or_both() {
    let data = tempfile::tempdir().unwrap();
    let embedder = concat!(env!("CARGO_MANIFEST_DIR"), "/../encoder/tests/fixtures/embedder/tiny");
    let storage = SledStorage::open(data.path(), SledOptions::default()).unwrap();
    let settings = Settings { embedder: Some(embedder.into()), ..settings(data.path()) };
    let server = serve_model(settings, Arc::new(storage), with_heads(&[(0, 1), (1, 2)])).await;
    let client = connect(&server).await;
    create(&client, "m", v1::RecallMode::Reread).await;
    ingest(&client, "m", "other", &text(91, 3000)).await;
    ingest(&client, "m", "forms", &format!("connection {}", text(92, 1000))).await;
    let memory = |select: v1::Select| v1::MemoryOptions { select: select.into(), ..from(&["m"]) };
    // Words in another form are found by a search, and by both, since heads find nothing.
    let found = async |select: v1::Select| {
        let (_, finish) = generated(&client, "connected", memory(select)).await;
        finish.passages.first().map(|chunk| chunk.document_id.clone())
    };
    assert_eq!(found(v1::Select::Search).await.as_deref(), Some("forms"));
    for select in [v1::Select::Unspecified, v1::Select::Heads, v1::Select::Both] {
        assert!(found(select).await.is_some(), "{select:?}");
    }
    let refused = async |memory: v1::MemoryOptions| {
        client.score("a text", memory).await.unwrap_err().violations()[0].field.clone()
    };
    assert_eq!(refused(memory(v1::Select::Search)).await, "memory.select");
    assert_eq!(refused(v1::MemoryOptions { select: 9, ..from(&["m"]) }).await, "memory.select");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_memory_outlives_the_profile_that_it_was_made_with() {
    let (data, text) = (tempfile::tempdir().unwrap(), odd_text(92));
    let (server, client) = serve_on(&data, with_heads(&[(0, 1), (1, 2)])).await;
    client.create_memory("m", "").await.unwrap();
    ingest(&client, "m", "d", &text).await;
    assert_eq!(generated(&client, ODD, from(&["m"])).await.1.mode(), v1::RecallMode::Attend);
    let made_by = client.get_memory("m").await.unwrap().fingerprint;
    drop(client);
    server.stop().await.unwrap();
    // Heads that look in other keys than the memory has entries for: one of them, then all. Each keeps fewer layers.
    for heads in [&[(1, 2), (1, 0)][..], &[(0, 3), (1, 1)]] {
        let (server, client) =
            serve_on(&data, with(|model| Profile { kv_layers: vec![1], ..profile(model, heads) })).await;
        let (_, finish) = generated(&client, ODD, from(&["m"])).await;
        assert_eq!(finish.mode(), v1::RecallMode::Attend, "what it keeps is used");
        assert!(texts(&finish)[..3].concat().contains(ODD), "{heads:?}: {finish:?}");
        assert_eq!(client.get_memory("m").await.unwrap().fingerprint, made_by);
        let hits = client.search(&["m"], &text[1480..1530], 3, true).await.unwrap();
        let found = hits[0].chunk.as_ref().unwrap();
        assert!(text[1480..1530].contains(&found.text[..4]), "{found:?}");
        // It goes on as it was made.
        let more = ingest_as(&client, "m", "d", IngestMode::Append, b"and more").await.unwrap();
        assert!(more.complete);
        // New ones are of the new shape, and so other memories; both are of this model, and there is nothing to re-encode.
        client.create_memory("new", "").await.unwrap();
        assert_ne!(client.get_memory("new").await.unwrap().fingerprint, made_by);
        let error = client.score("text", from(&["m", "new"])).await;
        assert!(error.is_err(), "two shapes are no one memory");
        client.delete_memory("new").await.unwrap();
        drop(client);
        server.stop().await.unwrap();
    }
    // Another model is another model, whatever its profile.
    let mut other = model::load(2);
    let profile = profile(&other, &[(0, 1), (1, 2)]);
    other.set_profile(profile).unwrap();
    let (_server, client) = serve_on(&data, Arc::new(other)).await;
    let request = v1::GenerateRequest { prompt: "x".into(), memory: Some(from(&["m"])), ..Default::default() };
    let error = client.generate(request).await.unwrap_err();
    assert_status(&error, Code::FailedPrecondition, &made_by[..24], "");
}

#[tokio::test]
async fn passages_elsewhere_are_as_passages_here() {
    let (data, text) = (tempfile::tempdir().unwrap(), odd_text(93));
    let store = Embedded::start(Settings { store_only: true, ..settings(data.path()) }).await.unwrap();
    let front = Settings { store: Some(store.endpoint()), ..settings("/nowhere".as_ref()) };
    let listener = bind(&front).await.unwrap();
    let server = Server::with_model(front, with_heads(&[(0, 1), (1, 2)])).await.unwrap();
    let front = Embedded::serve(server, listener).unwrap();
    let own = tempfile::tempdir().unwrap();
    let (_here, here) = serve_on(&own, with_heads(&[(0, 1), (1, 2)])).await;
    let mut answers = Vec::new();
    for client in [&connect(&front).await, &here] {
        let mut seen = Vec::new();
        for (memory, mode) in [("whole", v1::RecallMode::Attend), ("bare", v1::RecallMode::Reread)] {
            create(client, memory, mode).await;
            let metadata = [("date".to_owned(), "2024-05-01".to_owned()), ("speaker".to_owned(), "Ann".to_owned())];
            let options = IngestOptions { metadata: metadata.into_iter().collect(), ..IngestOptions::default() };
            client.ingest(memory, "d", options, text.as_bytes(), |_| {}).await.unwrap();
            let (said, finish) = generated(client, ODD, from(&[memory])).await;
            let cited: Vec<(String, u32)> = finish
                .citations
                .iter()
                .map(|citation| (citation.chunk.clone().unwrap().text, (citation.weight * 1e4).round() as u32))
                .collect();
            assert_eq!(finish.mode(), mode);
            seen.push((said, texts(&finish), cited));
        }
        answers.push(seen);
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn a_profile_is_made_once_and_kept_or_taken_from_a_file() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    model::write(folder.path(), 1);
    let settings = Settings { model: folder.path().display().to_string(), ..settings(data.path()) };
    let path = folder.path().join("mine.json");
    let mine = profile(&model::load(1), &[(1, 3)]);
    mine.write(&path).unwrap();
    let given = Settings { profile: Some(path.clone()), ..settings.clone() };
    let server = Embedded::start(given.clone()).await.unwrap();
    let with_mine = connect(&server).await.model().await.unwrap();
    assert_eq!(with_mine.fingerprint, with_heads(&[(1, 3)]).fingerprint().to_hex());
    server.stop().await.unwrap();
    assert!(!data.path().join("profiles").exists(), "a given one is not kept");

    let server = Embedded::start(settings.clone()).await.unwrap();
    let measured = connect(&server).await.model().await.unwrap();
    server.stop().await.unwrap();
    let kept: Vec<_> =
        std::fs::read_dir(data.path().join("profiles")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    // The second start reads it: here, one that was put in its place.
    mine.write(&kept[0]).unwrap();
    let server = Embedded::start(settings.clone()).await.unwrap();
    assert_eq!(connect(&server).await.model().await.unwrap().fingerprint, with_mine.fingerprint);
    assert_ne!(measured.fingerprint, with_mine.fingerprint);
    server.stop().await.unwrap();

    // Files that are none, and models that need none.
    std::fs::write(&path, "{}").unwrap();
    let error = Embedded::start(given).await.err().unwrap().to_string();
    assert!(error.contains("version none") && error.contains("mine.json"), "{error}");
    let default = Settings { model: mnemon_server::EMBEDDED_MODEL.into(), profile: Some(path), ..settings };
    let error = Embedded::start(default).await.err().unwrap().to_string();
    assert!(error.contains("needs none"), "{error}");
}
