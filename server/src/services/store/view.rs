//! A view that does not change while its stream is open, and what it answers.

use std::collections::HashSet;
use std::sync::Arc;

use mnemon_memory::{
    ChunkId, ChunkKv, ChunkSelection, KvDtype, KvGeometry, MAX_NEIGHBOURS, Recall, SearchRequest, TermRequest,
    WordRequest,
};
use mnemon_memory_store::Store;
use mnemon_proto::v1;
use mnemon_proto::v1::view_request::Request;
use mnemon_proto::v1::view_response::Answer;
use tokio::sync::mpsc;
use tokio::sync::mpsc::Sender;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::Instrument as _;

use crate::auth::Tenant;
use crate::filter::DocumentFilter;
use crate::memories::view_of;
use crate::state::AppState;
use crate::status::IntoStatus as _;
use crate::{incoming, status, tasks, validate, wire};

/// Bytes of keys and values in one answer.
const KV_BYTES_MAX: usize = 32 << 20;
/// Bytes of keys and values that one recall may hold, chunks of several blocks counted for each.
const RECALLED_BYTES_MAX: usize = 1 << 30;
/// Hits in one answer, over all lists.
const HITS_MAX: usize = 1 << 20;
/// Chunks described at once.
pub(super) const DESCRIBED_MAX: u32 = 1000;
/// Chunks listed at once, or known to a caller.
const LISTED_MAX: u32 = 65_536;
/// Chunks recalled for a block.
const TOP_K_CHUNKS_MAX: u32 = 256;
/// Query heads of one search.
const QUERY_HEADS_MAX: u32 = 4096;
/// Breadth of a walk.
const EF_SEARCH_MAX: u32 = 4096;

type Answered = Result<v1::ViewResponse, Status>;

/// Begins to answer; an error ends the stream.
pub(super) fn start(
    store: &Store,
    app: &Arc<AppState>,
    tenant: Tenant,
    requests: Streaming<v1::ViewRequest>,
) -> ReceiverStream<Answered> {
    // One answer ahead: a client that does not read is not read from.
    let (answers, stream) = mpsc::channel(1);
    let work = serve(store.clone(), Arc::clone(app), tenant, requests, answers);
    app.shutdown.streams.spawn(work.in_current_span());
    ReceiverStream::new(stream)
}

async fn serve(
    store: Store,
    app: Arc<AppState>,
    tenant: Tenant,
    mut requests: Streaming<v1::ViewRequest>,
    answers: Sender<Answered>,
) {
    let mut view: Option<Arc<dyn Recall>> = None;
    loop {
        let request = match next(&app, &mut requests, &answers).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(status) => {
                let _ = answers.try_send(Err(status));
                return;
            }
        };
        let answer = match (request, &view) {
            (Request::Open(open), None) => self::open(&store, &app, &tenant, open).await.map(|(opened, opening)| {
                view = Some(opening);
                Answer::Opened(opened)
            }),
            (Request::Open(_), Some(_)) => wire::refuse("open", "the view is open already; it is the first request"),
            (_, None) => wire::refuse("open", "the first request opens the view"),
            (request, Some(view)) => {
                let view = Arc::clone(view);
                tasks::store(&app, move || answer(view.as_ref(), request)).await
            }
        };
        let ended = answer.is_err();
        let answer = answer.map(|answer| v1::ViewResponse { answer: Some(answer) });
        tokio::select! {
            sent = answers.send(answer) => if sent.is_err() || ended { return },
            () = app.shutdown.cut.cancelled() => return,
        }
    }
}

/// Waits for the client, the end of the server, or a silence that is too long. `None` when the client is done.
async fn next(
    app: &AppState,
    requests: &mut Streaming<v1::ViewRequest>,
    answers: &Sender<Answered>,
) -> Result<Option<Request>, Status> {
    let idle = |idle_s| {
        let message = format!("nothing was asked for {idle_s} s; open the view again");
        status::with_reason(Code::Unavailable, message, "VIEW_IDLE")
    };
    let message = tokio::select! {
        biased;
        () = answers.closed() => return Ok(None),
        message = incoming::next(app, requests, idle) => message?,
    };
    match message {
        Some(v1::ViewRequest { request: Some(request) }) => Ok(Some(request)),
        Some(v1::ViewRequest { request: None }) => wire::refuse("request", "it is empty"),
        None => Ok(None),
    }
}

async fn open(
    store: &Store,
    app: &Arc<AppState>,
    tenant: &Tenant,
    open: v1::OpenView,
) -> Result<(v1::ViewOpened, Arc<dyn Recall>), Status> {
    validate::memories(&open.memories)?;
    validate::filter(open.filter.as_ref())?;
    let model = match open.fingerprint.as_str() {
        "" => None,
        hex => Some(wire::fingerprint("fingerprint", hex)?),
    };
    let (store, tenant) = (store.clone(), tenant.clone());
    tasks::store(app, move || {
        let filter = DocumentFilter::of_request(open.filter);
        let (view, sequences) = match model {
            Some(fingerprint) => {
                view_of(&store, tenant.name(), &open.memories, filter.as_ref(), Some(&|_| fingerprint))
            }
            None => view_of(&store, tenant.name(), &open.memories, filter.as_ref(), None),
        }?;
        let spec = store.memory(tenant.name(), &open.memories[0])?.spec().clone();
        let opened = v1::ViewOpened { spec: Some(wire::spec_to_send(&spec)), chunks: view.len(), sequences };
        Ok::<_, mnemon_memory::Error>((opened, view))
    })
    .await
}

/// Answers one request.
fn answer(view: &dyn Recall, request: Request) -> Result<Answer, Status> {
    Ok(match request {
        Request::Open(_) => return wire::refuse("open", "the view is open already"),
        Request::Search(query) => Answer::Hits(search(view, &query)?),
        Request::Recall(query) => Answer::Recalled(recall(view, query)?),
        Request::Fetch(query) => Answer::Fetched(fetch(view, &query)?),
        Request::FetchLayers(query) => Answer::FetchedLayers(fetch_layers(view, &query)?),
        Request::Neighbours(query) => Answer::Neighbours(neighbours(view, &query)?),
        Request::SearchTerms(query) => Answer::TermHits(search_terms(view, query)?),
        Request::SearchWords(query) => Answer::WordHits(search_words(view, &query)?),
        Request::Describe(query) => {
            validate::within("describe.chunk_ids", query.chunk_ids.len() as u32, 0, DESCRIBED_MAX)?;
            let infos = view.describe(&ids(&query.chunk_ids)).map_err(|error| error.into_status(""))?;
            Answer::Described(v1::ReadDocumentResponse { chunks: infos.into_iter().map(wire::text_to_send).collect() })
        }
        Request::List(query) => {
            validate::within("list.limit", query.limit, 1, LISTED_MAX)?;
            let end = query.skip.saturating_add(u64::from(query.limit));
            let all = view.chunks(usize::try_from(end).unwrap_or(usize::MAX));
            let all = all.map_err(|error| error.into_status(""))?;
            let listed = all.into_iter().skip(query.skip as usize).map(|chunk| chunk.0).collect();
            Answer::Listed(v1::ChunkList { chunk_ids: listed })
        }
    })
}

fn ids(chunks: &[u64]) -> Vec<ChunkId> {
    chunks.iter().copied().map(ChunkId).collect()
}

/// The key heads that are searched: those named, or those of a layer.
fn key_heads(geometry: &KvGeometry, query: &v1::EntryQuery) -> Result<Vec<usize>, Status> {
    if query.key_heads.is_empty() {
        validate::within("n_heads", query.n_heads, 1, QUERY_HEADS_MAX)?;
        let searched = geometry.searched_by(query.slot as usize, query.n_heads as usize);
        return searched.map_err(|error| error.into_status("slot"));
    }
    let named = query.key_heads.len() as u32;
    validate::within("key_heads", named, 1, QUERY_HEADS_MAX)?;
    if query.n_heads != 0 && query.n_heads != named {
        return wire::refuse("n_heads", format!("{}, but {named} key heads are named", query.n_heads));
    }
    Ok(query.key_heads.iter().map(|key_head| *key_head as usize).collect())
}

/// Checks what the store does not, and hands over the queries.
fn with_query<T>(
    view: &dyn Recall,
    query: &v1::EntryQuery,
    work: impl FnOnce(&SearchRequest<'_>) -> mnemon_memory::Result<T>,
) -> Result<T, Status> {
    let queries = wire::f32_values("queries", &query.queries)?;
    if let Some(ef) = query.ef_search {
        validate::within("ef_search", ef, 1, EF_SEARCH_MAX)?;
    }
    let lists = queries.len() / (view.geometry().head_dim as usize).max(1);
    if lists.saturating_mul(query.top_k as usize) > HITS_MAX {
        return wire::refuse("top_k", format!("{} for {lists} queries; {HITS_MAX} hits at most", query.top_k));
    }
    let key_heads = key_heads(view.geometry(), query)?;
    let request = SearchRequest {
        key_heads: &key_heads,
        queries: &queries,
        top_k: query.top_k as usize,
        ef: query.ef_search.map(|ef| ef as usize),
        exact: query.exact,
    };
    work(&request).map_err(|error| error.into_status(""))
}

pub(super) fn search(view: &dyn Recall, query: &v1::EntryQuery) -> Result<v1::EntryHits, Status> {
    with_query(view, query, |request| view.search(request)).map(|lists| wire::hits_to_send(&lists))
}

fn recall(view: &dyn Recall, query: v1::RecallQuery) -> Result<v1::RecalledChunks, Status> {
    validate::within("top_k_chunks", query.top_k_chunks, 1, TOP_K_CHUNKS_MAX)?;
    validate::within("known", query.known.len() as u32, 0, LISTED_MAX)?;
    let selection = ChunkSelection {
        block_queries: query.block_queries as usize,
        scale: &query.scale,
        top_k_chunks: query.top_k_chunks as usize,
    };
    let search = wire::given("search", query.search)?;
    let geometry = view.geometry();
    let heads = search.key_heads.len().max(search.n_heads as usize);
    let row = 4 * heads.saturating_mul(geometry.head_dim as usize).max(1);
    let blocks = (search.queries.len() / row).div_ceil(selection.block_queries.max(1));
    let bytes = blocks.saturating_mul(selection.top_k_chunks * kv_bytes(geometry, geometry.chunk_tokens as usize));
    if bytes > RECALLED_BYTES_MAX {
        return wire::refuse(
            "top_k_chunks",
            format!("{} for {blocks} blocks; ask for fewer at once", selection.top_k_chunks),
        );
    }
    let blocks = with_query(view, &search, |request| view.recall(search.slot as usize, request, &selection))?;
    let mut sent: HashSet<u64> = query.known.iter().copied().collect();
    let (mut chunks, mut room) = (Vec::new(), KV_BYTES_MAX);
    for kv in blocks.iter().flatten() {
        let bytes = kv_bytes(view.geometry(), kv.len);
        if bytes <= room && sent.insert(kv.id.0) {
            room -= bytes;
            chunks.push(wire::kv_to_send(kv));
        }
    }
    let list = |block: &Vec<Arc<ChunkKv>>| wire::list_to_send(block.iter().map(|kv| &kv.id));
    Ok(v1::RecalledChunks { blocks: blocks.iter().map(list).collect(), chunks })
}

/// Refuses more chunks, at `layers` layers each, than one answer may have.
fn check_size(geometry: &KvGeometry, layers: usize, chunks: usize) -> Result<(), Status> {
    let most = KV_BYTES_MAX / kv_bytes(geometry, geometry.chunk_tokens as usize).saturating_mul(layers).max(1);
    if chunks > most.max(1) {
        let message = format!("{chunks} chunks are more than one answer may have; ask for {most} at most");
        return Err(status::with_reason(Code::ResourceExhausted, message, "ANSWER_TOO_LARGE"));
    }
    Ok(())
}

fn fetch_layers(view: &dyn Recall, query: &v1::ChunkQuery) -> Result<v1::ChunkKvs, Status> {
    validate::within("fetch_layers.chunk_ids", query.chunk_ids.len() as u32, 0, LISTED_MAX)?;
    check_size(view.geometry(), view.geometry().layers.len(), query.chunk_ids.len())?;
    let layers = view.fetch_layers(&ids(&query.chunk_ids)).map_err(|error| error.into_status(""))?;
    Ok(v1::ChunkKvs { chunks: layers.iter().flatten().map(|kv| wire::kv_to_send(kv)).collect() })
}

fn neighbours(view: &dyn Recall, query: &v1::NeighbourQuery) -> Result<v1::ChunkLists, Status> {
    validate::within("neighbours.before", query.before, 0, MAX_NEIGHBOURS as u32)?;
    validate::within("neighbours.after", query.after, 0, MAX_NEIGHBOURS as u32)?;
    let most = LISTED_MAX / (query.before + 1 + query.after);
    validate::within("neighbours.chunk_ids", u32::try_from(query.chunk_ids.len()).unwrap_or(u32::MAX), 0, most)?;
    let lists = view.neighbours(&ids(&query.chunk_ids), query.before as usize, query.after as usize);
    let lists = lists.map_err(|error| error.into_status(""))?;
    Ok(v1::ChunkLists { lists: lists.iter().map(wire::list_to_send).collect() })
}

fn search_terms(view: &dyn Recall, query: v1::TermQuery) -> Result<v1::TermHits, Status> {
    let terms: Vec<Vec<u32>> = query.terms.into_iter().map(|term| term.tokens).collect();
    let request = TermRequest { terms: &terms, top_k: query.top_k as usize, k1: query.k1, b: query.b };
    let found = view.search_terms(&request).map_err(|error| error.into_status("search_terms"))?;
    Ok(wire::term_hits_to_send(found))
}

fn search_words(view: &dyn Recall, query: &v1::WordQuery) -> Result<v1::WordHits, Status> {
    let request = WordRequest {
        query: &query.query,
        top_k: query.top_k as usize,
        k1: query.k1,
        b: query.b,
        neighbours: query.neighbours,
    };
    let found = view.search_words(&request).map_err(|error| error.into_status("search_words"))?;
    Ok(wire::word_hits_to_send(&found))
}

pub(super) fn fetch(view: &dyn Recall, query: &v1::ChunkQuery) -> Result<v1::ChunkKvs, Status> {
    check_size(view.geometry(), 1, query.chunk_ids.len())?;
    let fetched = view.fetch(query.slot as usize, &ids(&query.chunk_ids)).map_err(|error| error.into_status(""))?;
    Ok(v1::ChunkKvs { chunks: fetched.iter().map(|kv| wire::kv_to_send(kv)).collect() })
}

/// Bytes of keys and values of `tokens` tokens at one layer, as they are sent.
fn kv_bytes(geometry: &KvGeometry, tokens: usize) -> usize {
    let width = if geometry.dtype == KvDtype::F32 { 4 } else { 2 };
    2 * width * tokens * geometry.kv_heads as usize * geometry.head_dim as usize
}
