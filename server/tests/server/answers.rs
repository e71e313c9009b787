//! Search, generate, score.

use mnemon_client::{Client, Code, IngestOptions, v1};
use mnemon_server::{Server, Settings};

use crate::world::*;

/// A server with a memory of one document, and its text.
async fn with_document(bytes: usize) -> (World, String) {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let text = text(20, bytes);
    ingest(&world.client, "m", "d", &text).await;
    (world, text)
}

fn request(prompt: &str, memory: v1::MemoryOptions) -> v1::GenerateRequest {
    v1::GenerateRequest { prompt: prompt.into(), memory: Some(memory), max_tokens: Some(24), ..Default::default() }
}

/// All of an answer: text, tokens, messages.
async fn whole(client: &Client, request: v1::GenerateRequest) -> (String, Vec<u32>, Vec<v1::GenerateResponse>) {
    let mut answer = client.generate(request).await.unwrap();
    let (mut text, mut tokens, mut messages) = (String::new(), Vec::new(), Vec::new());
    while let Some(message) = patiently(answer.message()).await.unwrap() {
        text.push_str(&message.text);
        tokens.extend(&message.token_ids);
        messages.push(message);
    }
    (text, tokens, messages)
}

async fn refused(client: &Client, request: v1::GenerateRequest) -> mnemon_client::Error {
    match client.generate(request).await {
        Err(error) => error,
        Ok(mut answer) => answer.message().await.unwrap_err(),
    }
}

#[tokio::test]
async fn a_passage_finds_its_own_chunk() {
    let (world, text) = with_document(6000).await;
    for at in [512, 2048, 4096] {
        // Whole chunks: they begin where a chunk begins, so that the model sees the same bytes.
        let query = &text[at..at + 32];
        let hits = world.client.search(&["m"], query, 5, true).await.unwrap();
        assert_eq!(hits.len(), 5);
        assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
        assert!(hits.iter().all(|hit| (0.0..=1.0).contains(&hit.score)));
        assert!(hits[0].words.is_some() && hits[0].keys.is_some() && !hits[0].highlights.is_empty());
        for hit in hits {
            let chunk = hit.chunk.unwrap();
            let span = chunk.span.unwrap();
            assert_eq!(chunk.text, text[span.byte_start as usize..span.byte_end as usize]);
            assert_eq!((chunk.memory.as_str(), chunk.document_id.as_str()), ("m", "d"));
        }
    }
    // A memory named twice is searched once.
    let hits = world.client.search(&["m", "m"], &text[..32], 1000, false).await.unwrap();
    let mut ids: Vec<_> = hits.iter().map(|hit| hit.chunk.as_ref().unwrap().chunk_id).collect();
    ids.sort_unstable();
    assert!(ids.len() > 5 && ids.windows(2).all(|pair| pair[0] < pair[1]));
}

/// A search of the memory `m`.
fn searched(query: &str, filter: v1::DocumentFilter) -> v1::SearchRequest {
    v1::SearchRequest { memories: vec!["m".into()], query: query.into(), filter: Some(filter), ..Default::default() }
}

/// Documents of the chunks found.
async fn documents(client: &Client, request: v1::SearchRequest) -> Vec<String> {
    let hits = client.search_with(request).await.unwrap();
    let mut found: Vec<String> = hits.into_iter().map(|hit| hit.chunk.unwrap().document_id).collect();
    found.sort();
    found.dedup();
    found
}

/// A conversation is one document that grows turn by turn.
#[tokio::test]
async fn turns_are_told_and_filtered() {
    let world = World::new().await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    for (speaker, date, text) in [
        ("Anna", "2024-05-01", "The lighthouse keeper sang all night to the sea, and to the gulls.\n"),
        ("Ben", "2024-06-01", "Nobody heard the violin in the harbour, as far as I can tell from here.\n"),
        ("Anna", "2024-06-02", "The lighthouse is dark today; let us ask the keeper what became of it.\n"),
        ("", "", "Nobody says so, but the lighthouse was sold a long time ago to a stranger.\n"),
    ] {
        let labels = [("speaker", speaker), ("date", date)].into_iter().filter(|(_, value)| !value.is_empty());
        let turn = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let options = IngestOptions { mode: v1::IngestMode::Append, turn, ..Default::default() };
        client.ingest("m", "talk", options, text.as_bytes(), |_| {}).await.unwrap();
    }
    let said_at = |chunk: &v1::Chunk, at: u32, key: &str| {
        let turn = chunk.turns.iter().rfind(|turn| turn.start <= at);
        turn.and_then(|turn| turn.metadata.get(key)).cloned().unwrap_or_default()
    };
    for (word, speaker, date) in
        [("violin", "Ben", "2024-06-01"), ("gulls", "Anna", "2024-05-01"), ("stranger", "", "")]
    {
        let hits = client.search(&["m"], word, 1, true).await.unwrap();
        let (chunk, at) = (hits[0].chunk.as_ref().unwrap(), hits[0].highlights[0].start);
        assert_eq!(
            (said_at(chunk, at, "speaker"), said_at(chunk, at, "date")),
            (speaker.into(), date.into()),
            "{word}"
        );
    }
    let has = |chunk: &v1::Chunk, key: &str, value: &str| {
        chunk.turns.iter().any(|turn| turn.metadata.get(key).is_some_and(|has| has == value))
    };
    let ben = v1::DocumentFilter { metadata: [("speaker".to_owned(), "Ben".to_owned())].into(), ..Default::default() };
    let may = v1::DocumentFilter { until: "2024-05".into(), ..Default::default() };
    for (filter, key, value) in [(ben, "speaker", "Ben"), (may, "date", "2024-05-01")] {
        let found = client.search_with(searched("the", filter)).await.unwrap();
        assert!(!found.is_empty());
        assert!(found.iter().all(|hit| has(hit.chunk.as_ref().unwrap(), key, value)), "{key}");
    }
    // What an answer cites tells as well.
    let (.., messages) = whole(client, request("the violin in", from(&["m"]))).await;
    let finish = messages.last().unwrap().finish.clone().unwrap();
    assert!(finish.citations.iter().any(|citation| has(citation.chunk.as_ref().unwrap(), "speaker", "Ben")));

    let turn = (0..17).map(|at| (at.to_string(), String::new())).collect();
    let options = IngestOptions { mode: v1::IngestMode::Append, turn, ..Default::default() };
    let error = client.ingest("m", "talk", options, "no".as_bytes(), |_| {}).await.unwrap_err();
    assert_status(&error, Code::InvalidArgument, "17 pairs", "start.turn");
}

#[tokio::test]
async fn searches_see_the_documents_that_a_filter_keeps() {
    let world = World::new().await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    for (id, speaker, date) in [
        ("talks/1", "Anna", "2024-05-01"),
        ("talks/2", "Ben", "2024-06-01"),
        ("notes/1", "Anna", "2023-01-01"),
        ("notes/2", "", ""),
    ] {
        let labels = [("speaker", speaker), ("date", date)].into_iter().filter(|(_, value)| !value.is_empty());
        let metadata = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let options = IngestOptions { metadata, ..Default::default() };
        client.ingest("m", id, options, "the lighthouse keeper sang".as_bytes(), |_| {}).await.unwrap();
    }
    let filter = v1::DocumentFilter::default;
    let all = ["notes/1", "notes/2", "talks/1", "talks/2"];
    assert_eq!(documents(client, searched("lighthouse", filter())).await, all);
    let prefix = v1::DocumentFilter { document_prefix: "talks/".into(), ..filter() };
    assert_eq!(documents(client, searched("lighthouse", prefix)).await, ["talks/1", "talks/2"]);
    let anna = v1::DocumentFilter { metadata: [("speaker".to_owned(), "Anna".to_owned())].into(), ..filter() };
    assert_eq!(documents(client, searched("lighthouse", anna.clone())).await, ["notes/1", "talks/1"]);
    let may = v1::DocumentFilter { from: "2024-05".into(), until: "2024-05".into(), ..filter() };
    assert_eq!(documents(client, searched("lighthouse", may)).await, ["talks/1"]);
    // Without a date the time of the commit counts, which is today.
    let recent = v1::DocumentFilter { from: "2025".into(), ..filter() };
    assert_eq!(documents(client, searched("lighthouse", recent)).await, ["notes/2"]);
    for by in [v1::SearchBy::Words, v1::SearchBy::Keys] {
        let request = v1::SearchRequest { by: by.into(), ..searched("lighthouse", anna.clone()) };
        assert_eq!(documents(client, request).await, ["notes/1", "talks/1"], "{by:?}");
    }
    let none = v1::DocumentFilter { document_prefix: "other".into(), ..filter() };
    assert!(documents(client, searched("lighthouse", none.clone())).await.is_empty());

    // Generation sees the same documents.
    let memory = v1::MemoryOptions { filter: Some(anna), ..from(&["m"]) };
    let (.., messages) = whole(client, request("the lighthouse", memory)).await;
    let finish = messages.last().unwrap().finish.clone().unwrap();
    let cited = finish.citations.into_iter().map(|citation| citation.chunk.unwrap().document_id);
    assert!(cited.into_iter().all(|id| id.ends_with("/1")));
    let memory = v1::MemoryOptions { filter: Some(none), ..from(&["m"]) };
    let (.., messages) = whole(client, request("the lighthouse", memory)).await;
    assert!(messages.last().unwrap().finish.clone().unwrap().citations.is_empty());

    for (filter, field) in [
        (v1::DocumentFilter { from: "May".into(), ..filter() }, "filter.from"),
        (v1::DocumentFilter { until: "2024-1".into(), ..filter() }, "filter.until"),
        (v1::DocumentFilter { document_prefix: "a".repeat(513), ..filter() }, "filter.document_prefix"),
    ] {
        let error = client.search_with(searched("lighthouse", filter)).await.unwrap_err();
        assert_status(&error, Code::InvalidArgument, "accepted", field);
    }
    let error = client.search_with(v1::SearchRequest { by: 9, ..searched("x", filter()) }).await.unwrap_err();
    assert_status(&error, Code::InvalidArgument, "are accepted", "by");
}

#[tokio::test]
async fn words_that_were_found_are_marked() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let text = format!("{}Zoë's cables were connected to the mast. {}", text(22, 300), text(23, 300));
    ingest(&world.client, "m", "d", &text).await;
    let request = searched("Was Zoe connecting a cable?", v1::DocumentFilter::default());
    let hits = world.client.search_with(v1::SearchRequest { by: v1::SearchBy::Words.into(), ..request }).await.unwrap();
    let (mut marked, mut spans) = (std::collections::BTreeSet::new(), Vec::new());
    for hit in &hits {
        let chunk = hit.chunk.as_ref().unwrap();
        let span = chunk.span.unwrap();
        assert_eq!(chunk.text, text[span.byte_start as usize..span.byte_end as usize]);
        assert!((1..=2).contains(&hit.chunk_ids.len()) && hit.chunk_ids[0] == chunk.chunk_id);
        assert!(hit.words.is_some() && hit.keys.is_none());
        marked.extend(hit.highlights.iter().map(|at| chunk.text[at.start as usize..at.end as usize].to_owned()));
        spans.push(span.byte_start..span.byte_end);
    }
    assert!(marked.contains("Zoë") || marked.contains("cables") || marked.contains("connected"), "{marked:?}");
    // No text is in two passages.
    spans.sort_by_key(|span| span.start);
    assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start), "{spans:?}");
}

#[tokio::test]
async fn what_memories_hold_is_embedded_and_found_by_meaning() {
    let data = tempfile::tempdir().unwrap();
    let embedder = concat!(env!("CARGO_MANIFEST_DIR"), "/../encoder/tests/fixtures/embedder/tiny");
    let by_meaning = |query: &str| v1::SearchRequest {
        by: v1::SearchBy::Meaning.into(),
        ..searched(query, v1::DocumentFilter::default())
    };
    let texts =
        [("lamp", "the lamp went out at nine"), ("cat", "the cat sat on the mat"), ("boat", "his old boat came")];
    {
        let server = serve(settings(data.path())).await;
        let client = connect(&server).await;
        client.create_memory("m", "").await.unwrap();
        ingest(&client, "m", texts[0].0, texts[0].1).await;
        let error = client.search_with(by_meaning("cat")).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::FailedPrecondition), "{error}");
        assert_eq!(client.get_memory("m").await.unwrap().embedded_chunks, None);
        server.stop().await.unwrap();
    }
    let server = serve(Settings { embedder: Some(embedder.into()), ..settings(data.path()) }).await;
    let client = connect(&server).await;
    for (id, text) in &texts[1..] {
        ingest(&client, "m", id, text).await;
    }
    // In the background: what was there before, and what came.
    loop {
        let memory = client.get_memory("m").await.unwrap();
        if memory.embedded_chunks == Some(memory.chunks) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    for (id, text) in texts {
        let hits = client.search_with(by_meaning(text)).await.unwrap();
        assert_eq!(hits[0].chunk.as_ref().unwrap().document_id, id);
        assert!(hits.iter().all(|hit| hit.meaning.is_some() && hit.words.is_none() && hit.keys.is_none()));
        let at = hits[0].sentence.unwrap();
        let sentence = &hits[0].chunk.as_ref().unwrap().text[at.start as usize..at.end as usize];
        assert!(sentence.len() > 8 && text.contains(sentence.trim()), "{sentence:?}");
        let all = client.search_with(searched(text, v1::DocumentFilter::default())).await.unwrap();
        assert_eq!(all[0].chunk.as_ref().unwrap().document_id, id);
        assert!(all[0].meaning.is_some() && all[0].words.is_some() && all[0].keys.is_none());
    }
    client.delete_document("m", "cat").await.unwrap();
    assert!(!documents(&client, by_meaning("the cat sat on the mat")).await.contains(&"cat".to_owned()));
    server.stop().await.unwrap();

    let nowhere = Settings { embedder: Some("./nowhere".into()), ..settings(data.path()) };
    assert!(Server::open(nowhere).await.err().unwrap().to_string().contains("embedder"));
    let elsewhere =
        Settings { store: Some("http://127.0.0.1:1".into()), embedder: Some(embedder.into()), ..settings(data.path()) };
    assert!(elsewhere.validate().unwrap_err().to_string().contains("embedder"));
}

#[tokio::test]
async fn passages_are_spread_over_documents() {
    let data = tempfile::tempdir().unwrap();
    let server = serve(settings(data.path())).await;
    let client = connect(&server).await;
    client.create_memory("m", "").await.unwrap();
    // One document says it in many places, two others in one.
    let said = |seed: u64, times: u64| {
        let place = |at| format!("{} lighthouse {}", text(seed + at, 300), text(seed + 100 + at, 300));
        (0..times).map(place).collect::<Vec<String>>().concat()
    };
    for (id, seed, times) in [("often", 1, 8), ("once", 20, 1), ("too", 40, 1)] {
        ingest(&client, "m", id, &said(seed, times)).await;
    }
    let found = async |per_document| {
        let by = v1::SearchBy::Words.into();
        let request = v1::SearchRequest { per_document, by, ..searched("lighthouse", v1::DocumentFilter::default()) };
        let hits = client.search_with(v1::SearchRequest { k: Some(6), ..request }).await.unwrap();
        let mut ids: Vec<String> = hits.into_iter().map(|hit| hit.chunk.unwrap().document_id).collect();
        ids.sort_by_key(|id| ["often", "once", "too"].iter().position(|known| known == id));
        ids
    };
    assert!(found(None).await.iter().filter(|id| *id == "often").count() >= 4);
    assert_eq!(found(Some(1)).await, ["often", "once", "too"]);
    assert_eq!(found(Some(2)).await, ["often", "often", "once", "too"]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bad_searches_are_refused() {
    let (world, _) = with_document(600).await;
    let client = &world.client;
    let empty = client.search(&["m"], "", 5, false).await.unwrap_err();
    assert_status(&empty, Code::InvalidArgument, "it is empty", "query");
    for k in [0, 1001, u32::MAX] {
        let error = client.search(&["m"], "text", k, false).await.unwrap_err();
        assert_status(&error, Code::InvalidArgument, "1 to 1000", "k");
    }
    let spread = v1::SearchRequest { per_document: Some(0), ..searched("text", v1::DocumentFilter::default()) };
    assert_status(&client.search_with(spread).await.unwrap_err(), Code::InvalidArgument, "1 to 1000", "per_document");
    let none = client.search(&[], "text", 5, false).await.unwrap_err();
    assert_status(&none, Code::InvalidArgument, "1 to 16", "memories");
    let many = client.search(&["m"; 17], "text", 5, false).await.unwrap_err();
    assert_status(&many, Code::InvalidArgument, "1 to 16", "memories");
    let long = client.search(&["m"], &text(21, 33_000), 5, false).await.unwrap_err();
    assert_status(&long, Code::InvalidArgument, "at most 32768", "query");
}

#[tokio::test]
async fn answers_are_cited() {
    let (world, text) = with_document(4000).await;
    let (answer, tokens, messages) = whole(&world.client, request(&text[1000..1100], from(&["m"]))).await;
    let finish = messages.last().unwrap().finish.clone().unwrap();
    let usage = finish.usage.unwrap();
    assert_eq!(usage.prompt_tokens, 100);
    assert_eq!(usage.generated_tokens as usize, tokens.len());
    assert!(usage.recalled_chunks > 0 && usage.prefill_ms > 0.0 && usage.decode_ms_per_token > 0.0);
    assert!(messages[..messages.len() - 1].iter().all(|message| message.finish.is_none()));
    assert!(answer.len() <= 24 * 3);

    assert!(!finish.citations.is_empty() && finish.citations.len() <= 32);
    assert!(finish.citations.len() <= usage.recalled_chunks as usize);
    let all = messages.iter().flat_map(|message| &message.citations).chain(&finish.citations);
    for citation in all {
        let chunk = citation.chunk.as_ref().unwrap();
        let span = chunk.span.unwrap();
        assert_eq!(chunk.text, text[span.byte_start as usize..span.byte_end as usize]);
        assert!(citation.weight > 0.0 && citation.weight <= 1.0);
    }
    for message in &messages {
        assert!(message.citations.len() <= 8);
        assert!(message.citations.windows(2).all(|pair| pair[0].weight >= pair[1].weight));
    }
    let total: f32 = finish.citations.iter().map(|citation| citation.weight).sum();
    assert!(total <= 1.001, "{total}");
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer() {
    let (world, text) = with_document(2000).await;
    let sampled = v1::GenerateRequest {
        sampling: Some(v1::SamplingOptions {
            temperature: Some(1.5),
            top_k: Some(50),
            top_p: Some(0.95),
            repetition_penalty: Some(1.1),
            seed: Some(7),
        }),
        ..request(&text[..50], from(&["m"]))
    };
    let (_, first, _) = whole(&world.client, sampled.clone()).await;
    let (_, second, _) = whole(&world.client, sampled).await;
    assert_eq!(first, second);

    let (_, _, messages) = whole(&world.client, request("without", without_memory())).await;
    let finish = messages.last().unwrap().finish.clone().unwrap();
    assert!(finish.citations.is_empty());
    assert_eq!(finish.usage.unwrap().recalled_chunks, 0);
    // An empty memory is as good as none.
    world.client.create_memory("empty", "").await.unwrap();
    let (_, _, messages) = whole(&world.client, request("without", from(&["empty"]))).await;
    assert!(messages.last().unwrap().finish.clone().unwrap().citations.is_empty());
}

#[tokio::test]
async fn a_stop_string_ends_the_answer() {
    let (world, _) = with_document(600).await;
    let (text, _, messages) = whole(&world.client, request("stop here", without_memory())).await;
    assert_eq!(messages.last().unwrap().finish.clone().unwrap().reason(), v1::FinishReason::MaxTokens);
    let stop: String = text.chars().skip(2).take(1).collect();
    let stopped = v1::GenerateRequest { stop: vec![stop.clone()], ..request("stop here", without_memory()) };
    let (text, _, messages) = whole(&world.client, stopped).await;
    assert!(!text.contains(&stop));
    assert_eq!(messages.last().unwrap().finish.clone().unwrap().reason(), v1::FinishReason::StopString);
}

#[tokio::test]
async fn bad_generations_are_refused() {
    let world = World::with(|settings| settings.limits.prompt_tokens = 100).await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    ingest(client, "m", "d", "some text").await;

    let empty = refused(client, request("", from(&["m"]))).await;
    assert_status(&empty, Code::InvalidArgument, "it is empty", "prompt");
    let long = refused(client, request(&"x".repeat(101), from(&["m"]))).await;
    assert_status(&long, Code::InvalidArgument, "at most 100", "prompt");
    for k in [0, 257, u32::MAX] {
        let options = v1::MemoryOptions { top_k_chunks: Some(k), ..from(&["m"]) };
        let error = refused(client, request("text", options.clone())).await;
        assert_status(&error, Code::InvalidArgument, "1 to 256", "memory.top_k_chunks");
        let error = client.score("text", options).await.unwrap_err();
        assert_status(&error, Code::InvalidArgument, "1 to 256", "memory.top_k_chunks");
    }
    let none = refused(client, request("text", v1::MemoryOptions::default())).await;
    assert_status(&none, Code::InvalidArgument, "recall_off", "memory.memories");
    for max_tokens in [0, 8193] {
        let request = v1::GenerateRequest { max_tokens: Some(max_tokens), ..request("text", from(&["m"])) };
        assert_status(&refused(client, request).await, Code::InvalidArgument, "1 to 8192", "max_tokens");
    }
    let messages = vec![v1::ChatMessage { role: "user".into(), content: "hi".into(), ..v1::ChatMessage::default() }];
    let chat = v1::GenerateRequest { messages: messages.clone(), ..request("", from(&["m"])) };
    assert_status(&refused(client, chat).await, Code::InvalidArgument, "the model has none; give a prompt", "messages");
    let both = v1::GenerateRequest { messages, ..request("text", from(&["m"])) };
    assert_status(&refused(client, both).await, Code::InvalidArgument, "not both", "messages");
}

#[tokio::test]
async fn texts_are_scored() {
    let (world, text) = with_document(3000).await;
    let passage = &text[1000..1200];
    let plain = world.client.score(passage, without_memory()).await.unwrap();
    let recalling = world.client.score(passage, from(&["m"])).await.unwrap();
    for score in [&plain, &recalling] {
        assert_eq!(score.tokens, 199);
        assert!(score.log_probability < 0.0);
        let perplexity = (-score.log_probability / score.tokens as f64).exp();
        assert!((score.perplexity / perplexity - 1.0).abs() < 1e-9);
        let bits = -score.log_probability / std::f64::consts::LN_2;
        assert!((score.bits_per_byte * 199.0 / bits - 1.0).abs() < 0.01, "{score:?}");
    }
    assert_eq!(plain.recalled_chunks, 0);
    assert!(recalling.recalled_chunks > 0);

    let (first, second) = passage.split_at(100);
    let after = world.client.score_after(first, second, without_memory()).await.unwrap();
    let before = world.client.score(first, without_memory()).await.unwrap();
    assert_eq!(after.tokens, 100);
    assert!((after.log_probability + before.log_probability - plain.log_probability).abs() < 1e-3);

    let empty = world.client.score("", without_memory()).await.unwrap_err();
    assert_status(&empty, Code::InvalidArgument, "at least two tokens", "text");
    let one = world.client.score("x", without_memory()).await.unwrap_err();
    assert_status(&one, Code::InvalidArgument, "two", "text");
}

#[tokio::test]
async fn too_many_calls_are_refused() {
    let world = World::with(|settings| settings.limits.calls = 1).await;
    let open = Pieces::open(channel(&world.server).await).await;
    let refused = world.client.list_memories().await.unwrap_err();
    assert_status(&refused, Code::ResourceExhausted, "too many calls", "");
    drop(open);
    eventually(|| async { world.client.list_memories().await.ok() }).await;
}

#[tokio::test]
async fn overload_is_refused_early() {
    let world = World::with(|settings| settings.limits.engine_queue = 1).await;
    let client = &world.client;
    let long = v1::GenerateRequest { max_tokens: Some(8192), ..request("go on", without_memory()) };
    let mut running = client.generate(long).await.unwrap();
    running.message().await.unwrap();
    // The one place is taken, unless the first answer waits for its reader just now.
    let refused = eventually(|| async {
        let mut second = client.generate(request("me too", without_memory())).await.unwrap();
        second.message().await.err()
    });
    let reading = async { while running.message().await.is_ok_and(|message| message.is_some()) {} };
    let refused = tokio::select! {
        refused = refused => refused,
        () = reading => panic!("the first answer ended, and nothing was refused"),
    };
    assert_status(&refused, Code::ResourceExhausted, "waiting for the model", "");
}
