//! A view of memories in a store on another machine: one stream, one round trip for each request.
//!
//! Chunks that came once are kept, up to a bound, and not sent again. If the connection is lost, the view is opened again: it is
//! the same view as long as the memories have the same sequence numbers.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use mnemon_client::Transport;
use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, ChunkSelection, Error, Hit, Invalid, KvGeometry, MAX_NEIGHBOURS, Recall, Result,
    SearchRequest, TermHits, TermRequest, WordHits, WordRequest,
};
use mnemon_memory_store::MemorySpec;
use mnemon_proto::v1;
use mnemon_proto::v1::chunk_store_client::ChunkStoreClient;
use mnemon_proto::v1::view_request::Request;
use mnemon_proto::v1::view_response::Answer;
use tokio::sync::mpsc;
use tokio::sync::mpsc::Sender;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::driver::Driver;
use super::remote;
use super::retry::RetryPolicy;
use crate::{status, wire};

/// Bytes of keys and values that a view keeps.
const KEPT_BYTES: usize = 64 << 20;
/// Chunks that the store is told of as known.
const KNOWN_MAX: usize = 4096;
/// Bytes of keys and values asked for at once: below what an answer may have.
const FETCH_BYTES: usize = 16 << 20;
/// Chunks listed, or described, at once.
const LIST_CHUNKS: usize = 65_536;
const DESCRIBE_CHUNKS: usize = 500;

/// See [`Recall`].
pub(super) struct RemoteView {
    store: ChunkStoreClient<Transport>,
    driver: Arc<Driver>,
    retry: RetryPolicy,
    open: v1::OpenView,
    spec: MemorySpec,
    chunks: u64,
    sequences: Vec<u64>,
    /// The stream; requests take turns. None after it broke.
    stream: tokio::sync::Mutex<Option<Stream>>,
    /// Keys and values that came before.
    kept: Mutex<Kept>,
}

struct Stream {
    requests: Sender<v1::ViewRequest>,
    answers: Streaming<v1::ViewResponse>,
}

impl Stream {
    async fn open(store: &ChunkStoreClient<Transport>, open: &v1::OpenView) -> Result<(Self, v1::ViewOpened), Status> {
        let (requests, outgoing) = mpsc::channel(1);
        let first = v1::ViewRequest { request: Some(Request::Open(open.clone())) };
        requests.send(first).await.map_err(|_| Status::unavailable("the stream ended"))?;
        let answers = store.clone().view(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut stream = Self { requests, answers };
        match stream.answer().await? {
            Answer::Opened(opened) => Ok((stream, opened)),
            _ => Err(unexpected()),
        }
    }

    async fn ask(&mut self, request: Request) -> Result<Answer, Status> {
        let request = v1::ViewRequest { request: Some(request) };
        // A stream that has ended tells why below.
        let _ = self.requests.send(request).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer, Status> {
        let message = self.answers.message().await?;
        message.and_then(|message| message.answer).ok_or_else(|| Status::unavailable("the store ended the view"))
    }
}

fn unexpected() -> Status {
    status::internal("the store answered something else than it was asked")
}

impl RemoteView {
    pub(super) fn open(
        store: ChunkStoreClient<Transport>,
        driver: Arc<Driver>,
        retry: RetryPolicy,
        open: v1::OpenView,
    ) -> Result<Self> {
        let (stream, opened) = retry.ask(&driver, || Stream::open(&store, &open)).map_err(remote)?;
        let spec = wire::given("spec", opened.spec).and_then(|spec| wire::spec(spec, String::new())).map_err(remote)?;
        Ok(Self {
            store,
            driver,
            retry,
            open,
            spec,
            chunks: opened.chunks,
            sequences: opened.sequences,
            stream: tokio::sync::Mutex::new(Some(stream)),
            kept: Mutex::new(Kept::default()),
        })
    }

    /// One round trip; several if the connection was lost.
    fn ask<T>(&self, request: &Request, expect: impl Fn(Answer) -> Option<T>) -> Result<T> {
        let asked = self.driver.wait(async {
            let mut tries = self.retry.tries();
            loop {
                match tries.within(self.ask_once(request.clone())).await {
                    Ok(answer) => return expect(answer).ok_or_else(unexpected),
                    Err(status) => tries.wait_after(status).await?,
                }
            }
        });
        asked.map_err(remote)
    }

    async fn ask_once(&self, request: Request) -> Result<Answer, Status> {
        let mut place = self.stream.lock().await;
        let mut stream = match place.take() {
            Some(stream) => stream,
            None => self.reopen().await?,
        };
        let answer = stream.ask(request).await;
        // Any error ends the stream. One that is dropped half-way is not put back either.
        if answer.is_ok() {
            *place = Some(stream);
        }
        answer
    }

    async fn reopen(&self) -> Result<Stream, Status> {
        let (stream, opened) = Stream::open(&self.store, &self.open).await?;
        if opened.sequences == self.sequences {
            return Ok(stream);
        }
        let message = "the connection to the store was lost, and the memory has changed since; ask again";
        Err(status::with_reason(Code::Aborted, message, "VIEW_LOST"))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `slot` is of no matter to a search of chosen key heads.
    fn query(&self, slot: usize, request: &SearchRequest<'_>) -> v1::EntryQuery {
        let of_layer = self.spec.geometry.searched_by(slot, request.key_heads.len());
        // Those of a layer need not be named.
        let named = if of_layer.is_ok_and(|of_layer| of_layer == request.key_heads) { &[] } else { request.key_heads };
        v1::EntryQuery {
            slot: slot as u32,
            n_heads: request.key_heads.len() as u32,
            key_heads: named.iter().map(|key_head| *key_head as u32).collect(),
            queries: wire::f32_bytes(request.queries),
            top_k: request.top_k as u32,
            ef_search: request.ef.map(|ef| ef as u32),
            exact: request.exact,
        }
    }

    fn receive(&self, slot: usize, chunks: &[v1::ChunkKv]) -> Result<HashMap<ChunkId, Arc<ChunkKv>>> {
        let received = chunks.iter().map(|kv| wire::received_kv(kv).map(Arc::new)).collect::<Result<Vec<_>, Status>>();
        let received = received.map_err(remote)?;
        let mut kept = self.kept();
        for kv in &received {
            kept.put(slot, kv);
        }
        Ok(received.into_iter().map(|kv| (kv.id, kv)).collect())
    }

    /// Bytes of keys and values of a chunk at one layer at most, at least 1.
    fn chunk_bytes(&self) -> usize {
        let geometry = &self.spec.geometry;
        8 * geometry.kv_heads as usize * geometry.head_dim as usize * (geometry.chunk_tokens as usize).max(1)
    }

    /// Fetches all layers of chunks that have no gap among those kept, a message for as many as it may have.
    fn fetch_all_layers(&self, chunks: &[u64], found: &mut [HashMap<ChunkId, Arc<ChunkKv>>]) -> Result<()> {
        let layers = found.len();
        for chunk_ids in chunks.chunks((FETCH_BYTES / (layers * self.chunk_bytes()).max(1)).max(1)) {
            let query = v1::ChunkQuery { slot: 0, chunk_ids: chunk_ids.to_vec() };
            let fetched = self.ask(&Request::FetchLayers(query), |answer| match answer {
                Answer::FetchedLayers(fetched) => Some(fetched.chunks),
                _ => None,
            })?;
            if fetched.len() != layers * chunk_ids.len() {
                return Err(remote(unexpected()));
            }
            for (slot, fetched) in fetched.chunks(chunk_ids.len()).enumerate() {
                let received = self.receive(slot, fetched)?;
                found[slot].extend(received);
            }
        }
        Ok(())
    }

    /// Fetches what is not among `found`, into it.
    fn fetch_missing(
        &self,
        slot: usize,
        chunks: impl Iterator<Item = ChunkId>,
        found: &mut HashMap<ChunkId, Arc<ChunkKv>>,
    ) -> Result<()> {
        let mut missing: Vec<u64> = chunks.filter(|chunk| !found.contains_key(chunk)).map(|chunk| chunk.0).collect();
        missing.sort_unstable();
        missing.dedup();
        for chunk_ids in missing.chunks((FETCH_BYTES / self.chunk_bytes()).max(1)) {
            let query = v1::ChunkQuery { slot: slot as u32, chunk_ids: chunk_ids.to_vec() };
            let fetched = self.ask(&Request::Fetch(query), |answer| match answer {
                Answer::Fetched(fetched) => Some(fetched.chunks),
                _ => None,
            })?;
            found.extend(self.receive(slot, &fetched)?);
        }
        Ok(())
    }
}

/// `chunks` in their order.
fn in_order(
    chunks: impl Iterator<Item = ChunkId>,
    found: &HashMap<ChunkId, Arc<ChunkKv>>,
) -> Result<Vec<Arc<ChunkKv>>> {
    chunks.map(|id| found.get(&id).cloned().ok_or(Error::UnknownChunk { chunk: id.0 })).collect()
}

impl Recall for RemoteView {
    fn geometry(&self) -> &KvGeometry {
        &self.spec.geometry
    }

    fn search(&self, request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>> {
        let geometry = &self.spec.geometry;
        let first = request.key_heads.first().and_then(|first| geometry.key_heads.get(*first));
        let slot = first.and_then(|key_head| geometry.slot_of(key_head.layer)).unwrap_or(0);
        let hits = self.ask(&Request::Search(self.query(slot, request)), |answer| match answer {
            Answer::Hits(hits) => Some(hits),
            _ => None,
        })?;
        wire::received_hits(&hits).map_err(remote)
    }

    fn recall(
        &self,
        slot: usize,
        request: &SearchRequest<'_>,
        choice: &ChunkSelection<'_>,
    ) -> Result<Vec<Vec<Arc<ChunkKv>>>> {
        // Held until the answer is put together, so that what is said to be known stays.
        let mut found = self.kept().latest(slot);
        let query = v1::RecallQuery {
            search: Some(self.query(slot, request)),
            block_queries: choice.block_queries as u32,
            scale: choice.scale.to_vec(),
            top_k_chunks: choice.top_k_chunks as u32,
            known: found.keys().map(|chunk| chunk.0).collect(),
        };
        let recalled = self.ask(&Request::Recall(query), |answer| match answer {
            Answer::Recalled(recalled) => Some(recalled),
            _ => None,
        })?;
        found.extend(self.receive(slot, &recalled.chunks)?);
        let blocks: Vec<Vec<ChunkId>> = recalled.blocks.iter().map(wire::received_list).collect();
        self.fetch_missing(slot, blocks.iter().flatten().copied(), &mut found)?;
        self.kept().touch(slot, blocks.iter().flatten());
        blocks.into_iter().map(|block| in_order(block.into_iter(), &found)).collect()
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> Result<Vec<Arc<ChunkKv>>> {
        let mut found = self.kept().of(slot, chunks);
        self.fetch_missing(slot, chunks.iter().copied(), &mut found)?;
        in_order(chunks.iter().copied(), &found)
    }

    fn fetch_layers(&self, chunks: &[ChunkId]) -> Result<Vec<Vec<Arc<ChunkKv>>>> {
        let mut found: Vec<_> = (0..self.spec.geometry.layers.len()).map(|slot| self.kept().of(slot, chunks)).collect();
        let whole = |chunk: &ChunkId| found.iter().all(|found| found.contains_key(chunk));
        let mut missing: Vec<u64> = chunks.iter().filter(|chunk| !whole(chunk)).map(|chunk| chunk.0).collect();
        missing.sort_unstable();
        missing.dedup();
        self.fetch_all_layers(&missing, &mut found)?;
        found.iter().map(|found| in_order(chunks.iter().copied(), found)).collect()
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> Result<Vec<Vec<ChunkId>>> {
        if before.max(after) > MAX_NEIGHBOURS {
            let why = format!("{before} before and {after} after; at most {MAX_NEIGHBOURS} are accepted");
            return Err(Error::Invalid(Invalid { what: "neighbours", why }));
        }
        let each = before + 1 + after;
        let mut lists = Vec::with_capacity(chunks.len());
        for chunks in chunks.chunks((LIST_CHUNKS / each).max(1)) {
            let chunk_ids = chunks.iter().map(|chunk| chunk.0).collect();
            let query = v1::NeighbourQuery { chunk_ids, before: before as u32, after: after as u32 };
            let found = self.ask(&Request::Neighbours(query), |answer| match answer {
                Answer::Neighbours(found) => Some(found.lists),
                _ => None,
            })?;
            lists.extend(found.iter().map(wire::received_list));
        }
        Ok(lists)
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> Result<TermHits> {
        request.validate()?;
        let terms = request.terms.iter().map(|tokens| v1::Term { tokens: tokens.clone() }).collect();
        let query = v1::TermQuery { terms, top_k: request.top_k as u32, k1: request.k1, b: request.b };
        let found = self.ask(&Request::SearchTerms(query), |answer| match answer {
            Answer::TermHits(found) => Some(found),
            _ => None,
        })?;
        wire::received_term_hits(found, request.terms.len()).map_err(remote)
    }

    fn search_words(&self, request: &WordRequest<'_>) -> Result<WordHits> {
        request.validate()?;
        let query = v1::WordQuery {
            query: request.query.to_owned(),
            top_k: request.top_k as u32,
            k1: request.k1,
            b: request.b,
            neighbours: request.neighbours,
        };
        let found = self.ask(&Request::SearchWords(query), |answer| match answer {
            Answer::WordHits(found) => Some(found),
            _ => None,
        })?;
        wire::received_word_hits(&found).map_err(remote)
    }

    fn describe(&self, chunks: &[ChunkId]) -> Result<Vec<ChunkInfo>> {
        let mut infos = Vec::with_capacity(chunks.len());
        for chunks in chunks.chunks(DESCRIBE_CHUNKS) {
            let query = v1::ChunkQuery { slot: 0, chunk_ids: chunks.iter().map(|chunk| chunk.0).collect() };
            let described = self.ask(&Request::Describe(query), |answer| match answer {
                Answer::Described(described) => Some(described.chunks),
                _ => None,
            })?;
            for text in described {
                infos.push(wire::received_text(text).map_err(remote)?);
            }
        }
        Ok(infos)
    }

    fn chunks(&self, limit: usize) -> Result<Vec<ChunkId>> {
        let mut all = Vec::new();
        while all.len() < limit {
            let page = (limit - all.len()).min(LIST_CHUNKS);
            let query = v1::ListQuery { skip: all.len() as u64, limit: page as u32 };
            let listed = self.ask(&Request::List(query), |answer| match answer {
                Answer::Listed(listed) => Some(listed.chunk_ids),
                _ => None,
            })?;
            let last = listed.len() < page;
            all.extend(listed.into_iter().map(ChunkId));
            if last {
                break;
            }
        }
        Ok(all)
    }

    fn len(&self) -> u64 {
        self.chunks
    }
}

/// Chunks that came before, the least recently used of which go first.
struct Kept {
    chunks: LruCache<(usize, ChunkId), Arc<ChunkKv>>,
    bytes: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { chunks: LruCache::new(KEPT_CHUNKS), bytes: 0 }
    }
}

/// Bound on the number of chunks, beside that on their bytes.
const KEPT_CHUNKS: NonZeroUsize = match NonZeroUsize::new(1 << 16) {
    Some(chunks) => chunks,
    None => NonZeroUsize::MIN,
};

fn bytes_of(kv: &ChunkKv) -> usize {
    // As binary32, the largest type.
    4 * (kv.keys.len() + kv.values.len()) + 160
}

impl Kept {
    fn put(&mut self, slot: usize, kv: &Arc<ChunkKv>) {
        self.bytes += bytes_of(kv);
        if let Some((_, old)) = self.chunks.push((slot, kv.id), Arc::clone(kv)) {
            self.bytes -= bytes_of(&old);
        }
        while self.bytes > KEPT_BYTES {
            let Some((_, old)) = self.chunks.pop_lru() else { break };
            self.bytes -= bytes_of(&old);
        }
    }

    fn touch<'a>(&mut self, slot: usize, chunks: impl Iterator<Item = &'a ChunkId>) {
        for chunk in chunks {
            self.chunks.promote(&(slot, *chunk));
        }
    }

    fn of(&mut self, slot: usize, chunks: &[ChunkId]) -> HashMap<ChunkId, Arc<ChunkKv>> {
        chunks.iter().filter_map(|chunk| Some((*chunk, Arc::clone(self.chunks.get(&(slot, *chunk))?)))).collect()
    }

    /// Those of a slot that were used last.
    fn latest(&self, slot: usize) -> HashMap<ChunkId, Arc<ChunkKv>> {
        let of_slot = self.chunks.iter().filter(|((kept, _), _)| *kept == slot);
        of_slot.take(KNOWN_MAX).map(|((_, chunk), kv)| (*chunk, Arc::clone(kv))).collect()
    }
}

#[cfg(test)]
mod tests {
    use mnemon_memory::KvData;

    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = Kept::default();
        let kv = |chunk: u64, values: usize| {
            let data = || KvData::F32(vec![0.0; values]);
            Arc::new(ChunkKv { id: ChunkId(chunk), document: 1, token_start: 0, len: 1, keys: data(), values: data() })
        };
        for chunk in 0..40 {
            kept.put(0, &kv(chunk, 1 << 18));
            assert!(kept.bytes <= KEPT_BYTES);
        }
        assert!(kept.of(0, &[ChunkId(0)]).is_empty() && kept.of(1, &[ChunkId(39)]).is_empty());
        assert_eq!(kept.of(0, &[ChunkId(39), ChunkId(0)]).len(), 1);
        kept.put(0, &kv(39, 1));
        assert_eq!(kept.latest(0).len(), kept.chunks.len());
    }
}
