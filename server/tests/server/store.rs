//! `ChunkStore`: appends that are done once, views that do not change, requests that are refused.

use mnemon_client::v1::append_request::Message;
use mnemon_client::v1::view_request::Request;
use mnemon_client::v1::view_response::Answer;
use mnemon_client::{Client, Code, Error, v1};
use mnemon_server::{Embedded, Settings, Tenant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::world::*;

const DIM: usize = 4;

/// A store without a model, and a client of it.
async fn store_only(change: impl FnOnce(&mut Settings)) -> (Embedded, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let mut settings = Settings { store_only: true, ..settings(data.path()) };
    change(&mut settings);
    (Embedded::start(settings).await.unwrap(), data)
}

fn spec(fingerprint: u8) -> v1::MemorySpec {
    v1::MemorySpec {
        fingerprint: format!("{fingerprint:02x}").repeat(32),
        geometry: Some(v1::Geometry {
            layers: vec![1, 3],
            kv_heads: 1,
            head_dim: DIM as u32,
            dtype: "f32".into(),
            chunk_tokens: 2,
            entry_policy: "per_token".into(),
            key_heads: Vec::new(),
        }),
        model: "test".into(),
    }
}

async fn create(client: &Client, name: &str, spec: Option<v1::MemorySpec>) -> Result<v1::Memory, Error> {
    let request = v1::CreateMemoryRequest { name: name.into(), spec, ..Default::default() };
    Ok(client.memory_service().create_memory(request).await?.into_inner())
}

fn numbers(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The chunk at `ordinal`: two tokens, a key of which points along axis `ordinal % DIM`.
fn chunk(ordinal: u64) -> v1::KvChunk {
    let mut key = [0.0; 2 * DIM];
    key[ordinal as usize % DIM] = 1.0 + ordinal as f32;
    let values: Vec<f32> = (0..2 * DIM).map(|at| (ordinal * 100) as f32 + at as f32).collect();
    v1::KvChunk {
        span: Some(v1::SourceSpan {
            byte_start: ordinal * 3,
            byte_end: ordinal * 3 + 3,
            token_start: ordinal * 2,
            token_end: ordinal * 2 + 2,
        }),
        tokens: vec![ordinal as u32, 7],
        text: format!("{ordinal:03}"),
        r#type: v1::NumberType::F32.into(),
        keys: vec![numbers(&key).into(); 2],
        values: vec![numbers(&values).into(); 2],
        importance: Vec::new(),
        lone_keys: Vec::new(),
        turns: vec![v1::Turn { start: 1, metadata: [("speaker".to_owned(), ordinal.to_string())].into() }],
    }
}

fn start(after_sequence: u64, keep_chunks: u64) -> v1::AppendStart {
    v1::AppendStart {
        memory: "m".into(),
        document_id: "d".into(),
        fingerprint: "07".repeat(32),
        after_sequence,
        keep_chunks,
        ..Default::default()
    }
}

fn commit(tokens: u64) -> Message {
    let resume = v1::ResumePoint { safe_byte: 0, safe_token: tokens, complete: false };
    Message::Commit(v1::AppendCommit { resume: Some(resume) })
}

async fn append(client: &Client, messages: Vec<Message>) -> Result<v1::DocumentState, Status> {
    let messages = messages.into_iter().map(|message| v1::AppendRequest { message: Some(message) });
    let messages: Vec<_> = messages.collect();
    let answer = patiently(client.chunk_store().append(tokio_stream::iter(messages))).await?;
    Ok(answer.into_inner().state.unwrap())
}

async fn append_chunks(
    client: &Client,
    after: u64,
    keep: u64,
    chunks: std::ops::Range<u64>,
) -> Result<v1::DocumentState, Status> {
    let end = chunks.end;
    let chunks = chunks.map(|ordinal| Message::Chunk(chunk(ordinal)));
    append(client, std::iter::once(Message::Start(start(after, keep))).chain(chunks).chain([commit(end)]).collect())
        .await
}

/// A view and its stream.
struct View {
    requests: mpsc::Sender<v1::ViewRequest>,
    answers: tonic::Streaming<v1::ViewResponse>,
}

impl View {
    async fn open(client: &Client, memories: &[&str]) -> (Self, v1::ViewOpened) {
        let (requests, outgoing) = mpsc::channel(1);
        let memories = memories.iter().map(|name| (*name).to_owned()).collect();
        let open = Request::Open(v1::OpenView { memories, ..Default::default() });
        requests.send(v1::ViewRequest { request: Some(open) }).await.unwrap();
        let answers = client.chunk_store().view(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        let mut view = Self { requests, answers };
        let Answer::Opened(opened) = view.answer().await.unwrap() else { panic!("not opened") };
        (view, opened)
    }

    async fn answer(&mut self) -> Result<Answer, Status> {
        Ok(patiently(self.answers.message()).await?.unwrap().answer.unwrap())
    }

    async fn ask(&mut self, request: Request) -> Result<Answer, Status> {
        self.requests.send(v1::ViewRequest { request: Some(request) }).await.unwrap();
        self.answer().await
    }
}

fn query(axis: usize, top_k: u32) -> v1::EntryQuery {
    let mut query = [0.0; DIM];
    query[axis] = 1.0;
    v1::EntryQuery { slot: 1, n_heads: 1, queries: numbers(&query).into(), top_k, exact: true, ..Default::default() }
}

async fn with_memory() -> (Embedded, tempfile::TempDir, Client) {
    let (server, data) = store_only(|_| {}).await;
    let client = connect(&server).await;
    create(&client, "m", Some(spec(7))).await.unwrap();
    (server, data, client)
}

#[tokio::test]
async fn chunks_are_found_and_handed_out() {
    let (_server, _data, client) = with_memory().await;
    let state = append_chunks(&client, 0, 0, 0..8).await.unwrap();
    assert_eq!((state.chunks, state.tokens, state.bytes), (8, 16, 24));
    let request = v1::SearchEntriesRequest { memories: vec!["m".into()], search: Some(query(1, 2)) };
    let hits = client.chunk_store().search_entries(request).await.unwrap().into_inner();
    assert_eq!((hits.counts, hits.scores), (vec![2], vec![6.0, 2.0]), "the chunks at 5 and 1");
    let fetch = v1::ChunkQuery { slot: 1, chunk_ids: hits.chunk_ids.clone() };
    let request = v1::FetchChunksRequest { memories: vec!["m".into()], fetch: Some(fetch) };
    let fetched = client.chunk_store().fetch_chunks(request).await.unwrap().into_inner().chunks;
    for (kv, ordinal) in fetched.iter().zip([5, 1]) {
        let sent = chunk(ordinal);
        assert_eq!((&kv.keys, &kv.values), (&sent.keys[1], &sent.values[1]), "to the last bit");
        assert_eq!((kv.token_start, kv.tokens), (ordinal * 2, 2));
    }
    let read = v1::ReadDocumentRequest { memory: "m".into(), document_id: "d".into(), from_ordinal: 6, limit: 5 };
    let read = client.chunk_store().read_document(read).await.unwrap().into_inner().chunks;
    let texts: Vec<_> = read.iter().map(|text| text.chunk.as_ref().unwrap().text.as_str()).collect();
    assert_eq!(texts, ["006", "007"]);
    assert_eq!(read[1].tokens, [7, 7]);
}

#[tokio::test]
async fn an_append_is_done_once() {
    let (_server, _data, client) = with_memory().await;
    let first = append_chunks(&client, 0, 0, 0..4).await.unwrap();
    // Its answer was lost, say.
    assert_eq!(append_chunks(&client, 0, 0, 0..4).await.unwrap(), first);
    let second = append_chunks(&client, first.sequence, 3, 3..6).await.unwrap();
    assert_eq!((second.chunks, second.tokens), (6, 12), "chunk 3 was replaced");
    assert_eq!(append_chunks(&client, first.sequence, 3, 3..6).await.unwrap(), second);
    // What is older, or somebody else's, is not done at all.
    for refused in [append_chunks(&client, 0, 0, 0..4).await, append_chunks(&client, first.sequence, 4, 4..5).await] {
        let error = Error::from(refused.unwrap_err());
        assert_status(&error, Code::Aborted, "changed by somebody else", "");
    }
    let opened = v1::OpenDocumentRequest { memory: "m".into(), document_id: "d".into(), ..Default::default() };
    let opened = client.chunk_store().open_document(opened).await.unwrap().into_inner();
    assert_eq!(opened.state, Some(second));
    assert_eq!(opened.spec, Some(spec(7)));
}

#[tokio::test]
async fn an_append_that_does_not_end_leaves_nothing() {
    let (_server, _data, client) = with_memory().await;
    let messages = vec![Message::Start(start(0, 0)), Message::Chunk(chunk(0))];
    let error = Error::from(append(&client, messages).await.unwrap_err());
    assert_status(&error, Code::InvalidArgument, "ended without it", "commit");
    let gap = append_chunks(&client, 0, 0, 1..3).await.unwrap_err();
    assert_status(&gap.into(), Code::InvalidArgument, "the document ends at token 0", "");
    let other = v1::AppendStart { fingerprint: "08".repeat(32), ..start(0, 0) };
    let other = append(&client, vec![Message::Start(other), commit(0)]).await.unwrap_err();
    assert_status(&other.into(), Code::FailedPrecondition, "070707", "");
    let uneven = v1::KvChunk { keys: vec![vec![0; 6].into(); 2], ..chunk(0) };
    let uneven = append(&client, vec![Message::Start(start(0, 0)), Message::Chunk(uneven), commit(2)]).await;
    assert_status(&uneven.unwrap_err().into(), Code::InvalidArgument, "no whole binary32", "keys");
    assert_eq!(client.get_memory("m").await.unwrap().documents, 0);
}

#[tokio::test]
async fn a_view_does_not_change() {
    let (_server, _data, client) = with_memory().await;
    let state = append_chunks(&client, 0, 0, 0..4).await.unwrap();
    let (mut view, opened) = View::open(&client, &["m"]).await;
    assert_eq!((opened.chunks, opened.sequences), (4, vec![state.sequence]));
    append_chunks(&client, state.sequence, 2, 2..8).await.unwrap();
    client.delete_document("m", "d").await.unwrap();

    let recall = v1::RecallQuery {
        search: Some(query(3, 8)),
        block_queries: 1,
        scale: vec![1.0],
        top_k_chunks: 2,
        known: Vec::new(),
    };
    let Answer::Recalled(recalled) = view.ask(Request::Recall(recall.clone())).await.unwrap() else { panic!() };
    assert_eq!((recalled.blocks.len(), recalled.chunks.len()), (1, 2));
    let best = recalled.blocks[0].chunk_ids[0];
    let kv = recalled.chunks.iter().find(|kv| kv.chunk_id == best).unwrap();
    assert_eq!(kv.values, chunk(3).values[1]);
    let known = v1::RecallQuery { known: vec![best], ..recall };
    let Answer::Recalled(again) = view.ask(Request::Recall(known)).await.unwrap() else { panic!() };
    assert_eq!(again.blocks, recalled.blocks);
    assert!(again.chunks.len() == 1 && again.chunks[0].chunk_id != best, "what is known is not sent");

    let Answer::Listed(listed) = view.ask(Request::List(v1::ListQuery { skip: 1, limit: 2 })).await.unwrap() else {
        panic!()
    };
    assert_eq!(listed.chunk_ids.len(), 2);
    let describe = v1::ChunkQuery { slot: 0, chunk_ids: listed.chunk_ids };
    let Answer::Described(described) = view.ask(Request::Describe(describe)).await.unwrap() else { panic!() };
    assert_eq!(described.chunks[0].chunk.as_ref().unwrap().text, "001");
    // Whoever opens a view now sees none of it.
    assert_eq!(View::open(&client, &["m"]).await.1.chunks, 0);
}

#[tokio::test]
async fn bad_questions_end_a_view() {
    let (_server, _data, client) = with_memory().await;
    append_chunks(&client, 0, 0, 0..4).await.unwrap();
    let requests = [
        (Request::Search(v1::EntryQuery { slot: 2, ..query(0, 1) }), "slot 2", Code::InvalidArgument),
        (Request::Search(v1::EntryQuery { top_k: 0, ..query(0, 1) }), "0 entries", Code::InvalidArgument),
        (
            Request::Search(v1::EntryQuery { queries: vec![0; 5].into(), ..query(0, 1) }),
            "binary32",
            Code::InvalidArgument,
        ),
        (
            Request::Search(v1::EntryQuery { queries: numbers(&[f32::NAN; 4]).into(), ..query(0, 1) }),
            "finite",
            Code::InvalidArgument,
        ),
        (Request::Search(v1::EntryQuery { ef_search: Some(0), ..query(0, 1) }), "1 to 4096", Code::InvalidArgument),
        (
            Request::Recall(v1::RecallQuery { search: Some(query(0, 1)), top_k_chunks: 1, ..Default::default() }),
            "0 scales",
            Code::InvalidArgument,
        ),
        (Request::Fetch(v1::ChunkQuery { slot: 0, chunk_ids: vec![999] }), "chunk 999", Code::NotFound),
        (Request::List(v1::ListQuery { skip: 0, limit: 0 }), "1 to 65536", Code::InvalidArgument),
        (Request::Search(v1::EntryQuery { key_heads: vec![2], ..query(0, 1) }), "key head 2", Code::InvalidArgument),
        (Request::Search(v1::EntryQuery { key_heads: vec![0; 4097], ..query(0, 1) }), "4096", Code::InvalidArgument),
        (
            Request::Search(v1::EntryQuery { key_heads: vec![0; 2], ..query(0, 1) }),
            "2 key heads",
            Code::InvalidArgument,
        ),
        (Request::Search(v1::EntryQuery { n_heads: 0, ..query(0, 1) }), "1 to 4096", Code::InvalidArgument),
        (Request::FetchLayers(v1::ChunkQuery { slot: 0, chunk_ids: vec![999] }), "chunk 999", Code::NotFound),
        (neighbours(&[999], 1), "chunk 999", Code::NotFound),
        (neighbours(&[1], 1025), "0 to 1024", Code::InvalidArgument),
        (neighbours(&[1; 100], 1000), "is accepted", Code::InvalidArgument),
        (terms(&[&[7]], 0), "1 to 4096", Code::InvalidArgument),
        (terms(&vec![&[7][..]; 1025], 1), "at most 1024", Code::InvalidArgument),
        (
            Request::SearchTerms(v1::TermQuery { top_k: 1, k1: f32::NAN, ..Default::default() }),
            "k1 of NaN",
            Code::InvalidArgument,
        ),
        (Request::Open(v1::OpenView::default()), "open already", Code::InvalidArgument),
    ];
    for (request, part, code) in requests {
        let (mut view, _) = View::open(&client, &["m"]).await;
        let error = view.ask(request).await.unwrap_err();
        assert_status(&error.into(), code, part, "");
    }
    let huge = v1::RecallQuery {
        search: Some(v1::EntryQuery { queries: vec![0; 16 * DIM * 65_536].into(), ..query(0, 1) }),
        block_queries: 1,
        scale: vec![1.0],
        top_k_chunks: 256,
        known: Vec::new(),
    };
    let (mut view, _) = View::open(&client, &["m"]).await;
    let error = view.ask(Request::Recall(huge)).await.unwrap_err();
    assert_status(&error.into(), Code::InvalidArgument, "fewer at once", "top_k_chunks");
    let many = Request::Search(v1::EntryQuery { queries: vec![0; DIM * 4 * 64].into(), ..query(0, 65_536) });
    let (mut view, _) = View::open(&client, &["m"]).await;
    assert_status(&view.ask(many).await.unwrap_err().into(), Code::InvalidArgument, "hits at most", "top_k");
}

fn neighbours(chunk_ids: &[u64], before: u32) -> Request {
    Request::Neighbours(v1::NeighbourQuery { chunk_ids: chunk_ids.to_vec(), before, after: 1 })
}

fn terms(terms: &[&[u32]], top_k: u32) -> Request {
    let terms = terms.iter().map(|tokens| v1::Term { tokens: tokens.to_vec() }).collect();
    Request::SearchTerms(v1::TermQuery { terms, top_k, k1: 1.2, b: 0.75 })
}

#[tokio::test]
async fn chosen_key_heads_are_kept_and_searched() {
    let (server, _data) = store_only(|_| {}).await;
    let client = connect(&server).await;
    let spec = spec(7);
    let key_heads = [0, 3].map(|layer| v1::KeyHead { layer, head: 0 }).to_vec();
    let geometry = v1::Geometry { key_heads: key_heads.clone(), ..spec.geometry.unwrap() };
    let spec = v1::MemorySpec { geometry: Some(geometry.clone()), model: spec.model, ..spec };
    let made = create(&client, "m", Some(spec)).await.unwrap();
    assert_eq!(made.geometry, Some(geometry.clone()));
    // The lone key points along another axis than the others.
    let lone = |ordinal: u64| chunk(ordinal + 1).keys[0].clone();
    let chunks = (0..6).map(|ordinal| Message::Chunk(v1::KvChunk { lone_keys: vec![lone(ordinal)], ..chunk(ordinal) }));
    let begin = std::iter::once(Message::Start(start(0, 0)));
    append(&client, begin.chain(chunks).chain([commit(12)]).collect()).await.unwrap();
    let lacking = append_chunks(&client, 1, 6, 6..7).await.unwrap_err();
    assert_status(&lacking.into(), Code::InvalidArgument, "lone key heads", "");

    let (mut view, _) = View::open(&client, &["m"]).await;
    let both = numbers(&[0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    let both = v1::EntryQuery { key_heads: vec![0, 1], n_heads: 0, queries: both.into(), ..query(1, 1) };
    let Answer::Hits(hits) = view.ask(Request::Search(both)).await.unwrap() else { panic!() };
    assert_eq!((hits.counts, hits.scores), (vec![1, 1], vec![6.0, 6.0]));
    let [before, at] = hits.chunk_ids[..] else { panic!() };
    assert_eq!(before + 1, at, "the key at the lone head is that of the next chunk");

    let layers = v1::ChunkQuery { slot: 0, chunk_ids: vec![at, before] };
    let Answer::FetchedLayers(layers) = view.ask(Request::FetchLayers(layers)).await.unwrap() else { panic!() };
    let ids: Vec<u64> = layers.chunks.iter().map(|kv| kv.chunk_id).collect();
    assert_eq!(ids, [at, before, at, before], "layer by layer");
    assert_eq!(layers.chunks[2].values, chunk(5).values[1]);
    let Answer::Neighbours(lists) = view.ask(neighbours(&[at, before], 2)).await.unwrap() else { panic!() };
    let lists: Vec<_> = lists.lists.into_iter().map(|list| list.chunk_ids).collect();
    assert_eq!(lists, [vec![at - 2, at - 1, at], vec![at - 3, at - 2, at - 1, at]]);
    let Answer::TermHits(found) = view.ask(terms(&[&[3, 100]], 4)).await.unwrap() else { panic!() };
    assert_eq!((found.chunk_ids, found.scores.len()), (vec![at - 2], 1));

    // No layer at all.
    let only = v1::Geometry { layers: Vec::new(), ..geometry };
    let only = v1::MemorySpec { fingerprint: "07".repeat(32), geometry: Some(only), model: "test".into() };
    create(&client, "only", Some(only)).await.unwrap();
    let chunk = v1::KvChunk { keys: Vec::new(), values: Vec::new(), lone_keys: vec![lone(0), lone(1)], ..chunk(0) };
    let begin = Message::Start(v1::AppendStart { memory: "only".into(), ..start(0, 0) });
    append(&client, vec![begin, Message::Chunk(chunk), commit(2)]).await.unwrap();
    let (mut view, opened) = View::open(&client, &["only"]).await;
    assert_eq!(opened.spec.unwrap().geometry.unwrap().key_heads, key_heads);
    let search = v1::EntryQuery { key_heads: vec![1], ..query(2, 1) };
    let Answer::Hits(hits) = view.ask(Request::Search(search)).await.unwrap() else { panic!() };
    assert_eq!(hits.scores, [3.0]);
    let layers = v1::ChunkQuery { slot: 0, chunk_ids: hits.chunk_ids };
    let Answer::FetchedLayers(layers) = view.ask(Request::FetchLayers(layers)).await.unwrap() else { panic!() };
    assert!(layers.chunks.is_empty());
}

#[tokio::test]
async fn a_store_alone_says_what_it_has_not() {
    let (server, _data) = store_only(|_| {}).await;
    let client = connect(&server).await;
    let error = create(&client, "m", None).await.unwrap_err();
    assert_status(&error, Code::InvalidArgument, "no model", "spec");
    for wrong in [
        v1::MemorySpec { fingerprint: "07".into(), ..spec(7) },
        v1::MemorySpec { geometry: None, ..spec(7) },
        v1::MemorySpec { geometry: Some(v1::Geometry::default()), ..spec(7) },
    ] {
        assert_eq!(create(&client, "m", Some(wrong)).await.unwrap_err().code(), Some(Code::InvalidArgument));
    }
    let error = client.model().await.unwrap_err();
    assert_status(&error, Code::Unimplemented, "keeps memories only", "");
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let tenant =
        |name: &str, delegate| Tenant { name: name.into(), token: name.repeat(8), delegate, ..Tenant::default() };
    let (server, _data) = store_only(|settings| {
        settings.tenants = vec![tenant("anna", false), tenant("bert", false), tenant("front", true)];
    })
    .await;
    let anna = connect_as(&server, &"anna".repeat(8)).await;
    create(&anna, "m", Some(spec(7))).await.unwrap();
    append_chunks(&anna, 0, 0, 0..4).await.unwrap();
    let bert = connect_as(&server, &"bert".repeat(8)).await;
    let request = || v1::SearchEntriesRequest { memories: vec!["m".into()], search: Some(query(1, 2)) };
    let error = bert.chunk_store().search_entries(request()).await.unwrap_err();
    assert_status(&error.into(), Code::NotFound, "'m' does not exist", "");
    assert_status(&append_chunks(&bert, 0, 0, 0..1).await.unwrap_err().into(), Code::NotFound, "does not exist", "");
    let posing = bert.on_behalf_of("anna").unwrap();
    let error = posing.chunk_store().search_entries(request()).await.unwrap_err();
    assert_status(&error.into(), Code::PermissionDenied, "on behalf of others", "");
    // A server with a model may be allowed to.
    let front = connect_as(&server, &"front".repeat(8)).await;
    assert!(front.chunk_store().search_entries(request()).await.is_err());
    let for_anna = front.on_behalf_of("anna").unwrap();
    assert_eq!(for_anna.chunk_store().search_entries(request()).await.unwrap().into_inner().counts, [2]);
}
