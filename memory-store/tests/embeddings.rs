//! Sentence embeddings: derived, searched as the chunks are seen, and gone with them.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{extend, open, small_spec, write_document};
use mnemon_memory::{
    ChunkId, EmbeddingHits, EmbeddingRequest, Embeddings, Fingerprint, KvChunk, Meaning, Recall, UnionRecall,
};
use mnemon_memory_store::{Error, InMemoryStorage, Memory, Storage, Store, check};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 12;
const EMBEDDER: Fingerprint = Fingerprint([3; 32]);
const OTHER: Fingerprint = Fingerprint([4; 32]);

fn unit(seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let vector: Vec<f32> = (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect();
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.into_iter().map(|value| value / length).collect()
}

fn seed_of(text: &str) -> u64 {
    text.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

/// One vector for each chunk, and two sentences in each but the last.
fn embeddings(texts: &[String]) -> Embeddings {
    let chunks = texts.iter().flat_map(|text| unit(seed_of(text))).collect();
    let of: Vec<u32> = (0..texts.len() as u32 - 1).flat_map(|chunk| [chunk, chunk]).collect();
    let sentences =
        of.iter().enumerate().flat_map(|(at, chunk)| unit(seed_of(&texts[*chunk as usize]) + 1 + at as u64 % 2));
    Embeddings { dim: DIM, chunks, sentences: sentences.collect(), chunk_of_sentence: of.clone() }
}

fn embed_all(memory: &Memory, embedder: &Fingerprint) -> usize {
    let mut count = 0;
    while let Some(next) = memory.unembedded(embedder).unwrap() {
        memory.embed(&next, embedder, &embeddings(&next.texts)).unwrap();
        count += 1;
    }
    count
}

fn search(view: &dyn Recall, query: &[f32], top_k: usize, also: &[ChunkId]) -> EmbeddingHits {
    search_less_common(view, query, 0.0, top_k, also)
}

fn search_less_common(
    view: &dyn Recall,
    query: &[f32],
    common_weight: f32,
    top_k: usize,
    also: &[ChunkId],
) -> EmbeddingHits {
    let request = EmbeddingRequest { embedder: &EMBEDDER, query, chunk_weight: 0.5, common_weight, top_k, also };
    view.search_embeddings(&request).unwrap()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Chunks of one blob, by the options of these tests.
const BLOB_CHUNKS: usize = 2;

/// Scores of the chunks of a document, written down once more.
fn oracle(texts: &[String], query: &[f32]) -> Vec<f32> {
    texts.chunks(BLOB_CHUNKS).flat_map(|texts| oracle_of_blob(texts, query)).collect()
}

fn oracle_of_blob(texts: &[String], query: &[f32]) -> Vec<f32> {
    let vectors: Vec<Vec<f32>> = texts.iter().map(|text| unit(seed_of(text))).collect();
    let sentence = |chunk: usize| {
        (chunk + 1 < texts.len()).then(|| [1, 2].map(|more| dot(query, &unit(seed_of(&texts[chunk]) + more))))
    };
    let least = (0..texts.len()).filter_map(sentence).flatten().fold(f32::INFINITY, f32::min);
    let score = |at: usize| {
        let mut sum = vectors[at].clone();
        for beside in [at.wrapping_sub(1), at + 1].into_iter().filter_map(|beside| vectors.get(beside)) {
            sum.iter_mut().zip(beside).for_each(|(sum, value)| *sum += 0.25 * value);
        }
        let whole = dot(query, &sum) / dot(&sum, &sum).sqrt();
        let least = if least.is_finite() { least } else { whole };
        let best = sentence(at).map_or(least, |scores| scores[0].max(scores[1]));
        f32::midpoint(whole, best)
    };
    (0..texts.len()).map(score).collect()
}

fn books() -> (Arc<InMemoryStorage>, Store, Memory) {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    (storage, store, memory)
}

fn vector_blobs(storage: &InMemoryStorage) -> usize {
    storage.list_blobs().unwrap().iter().filter(|blob| blob.name.starts_with("vectors-")).count()
}

/// What a view of some turns hides is no candidate for being scored again.
#[test]
fn what_is_hidden_takes_no_place() {
    let (_storage, _store, memory) = books();
    let written = write_document(&memory, "a", 200, 1);
    embed_all(&memory, &EMBEDDER);
    let speaker = |chunk: &KvChunk| chunk.turns.first().map(|turn| turn.metadata["speaker"].clone());
    // The second chunk of a blob has no sentences.
    let speakers: Vec<String> = written.iter().step_by(BLOB_CHUNKS).filter_map(speaker).step_by(14).collect();
    assert_eq!(speakers.len(), 5);
    let view = memory.snapshot().unwrap();
    let view =
        view.of_documents(&|labels| labels.metadata.get("speaker").is_some_and(|by| speakers.contains(by))).unwrap();
    for query in 0..20 {
        let found = search_less_common(&view, &unit(1000 + query), 0.5, 9, &[]).hits;
        assert_eq!(found.len(), 5);
        assert!(found.windows(2).all(|pair| pair[0].meaning.score > pair[1].meaning.score), "{query}: {found:?}");
    }
}

#[test]
fn scores_are_means_of_two_cosines() {
    let (storage, store, memory) = books();
    let texts: Vec<String> = write_document(&memory, "a", 5, 1).into_iter().map(|chunk| chunk.text).collect();
    let view = memory.snapshot().unwrap();
    let ids = view.chunks(10).unwrap();
    let query = unit(99);
    let none = search(&view, &query, 3, &ids[..1]);
    assert_eq!((none.hits.len(), none.embedded, &none.also[..]), (0, 0, &[None][..]));
    assert_eq!((embed_all(&memory, &EMBEDDER), memory.embedded_chunks(&EMBEDDER)), (3, 5));
    assert_eq!(memory.embedded_chunks(&OTHER), 0);
    let expected = oracle(&texts, &query);
    for view in [view, memory.snapshot().unwrap()] {
        let found = search(&view, &query, 3, &[ids[4], ChunkId(1 << 40), ids[0]]);
        assert!(found.hits.len() == 3 && found.embedded == 5);
        for hit in &found.hits {
            let at = ids.iter().position(|id| *id == hit.chunk).unwrap();
            let Meaning { score, likeness, sentence } = hit.meaning;
            assert!((score - expected[at]).abs() < 0.02, "{score} and {}", expected[at]);
            assert!((score - likeness).abs() < f32::EPSILON && sentence.is_none_or(|(place, count)| place < count));
            assert_eq!(sentence.is_some(), at % BLOB_CHUNKS == 0 && at < 4, "the last chunk of a blob has none");
        }
        assert!(found.hits.windows(2).all(|pair| pair[0].meaning.score >= pair[1].meaning.score));
        assert!((found.also[0].unwrap().score - expected[4]).abs() < 0.02 && found.also[1].is_none());
        let least = expected.iter().copied().fold(f32::INFINITY, f32::min);
        assert!((found.least - least).abs() < 0.02);
    }
    // As another process reads them.
    drop((memory, store));
    let storage: Arc<dyn Storage> = storage;
    assert!(check(&storage, false).unwrap().is_sound());
    let memory = open(storage).memory("tenant", "books").unwrap();
    assert_eq!(embed_all(&memory, &EMBEDDER), 0);
    assert_eq!(search(&memory.snapshot().unwrap(), &query, 3, &[]).hits.len(), 3);
}

#[test]
fn what_is_like_much_else_comes_later() {
    let (_, _, memory) = books();
    write_document(&memory, "a", 6, 1);
    // Sentences of three chunks, one a blob: two that say nearly the same, and one that is a little further from the query, but like nothing else.
    let at = |angle: f32| {
        let mut vector = vec![0.0; DIM];
        (vector[0], vector[1]) = (angle.cos(), angle.sin());
        vector
    };
    let angles = [0.30, 0.32, -0.40, 2.0, 2.5, 3.0];
    let mut sentence = angles.iter();
    while let Some(next) = memory.unembedded(&EMBEDDER).unwrap() {
        let count = next.texts.len();
        let vectors: Vec<f32> = sentence.by_ref().take(count).flat_map(|angle| at(*angle)).collect();
        let chunk_of_sentence = (0..count as u32).collect();
        let embeddings = Embeddings { dim: DIM, chunks: vectors.clone(), sentences: vectors, chunk_of_sentence };
        memory.embed(&next, &EMBEDDER, &embeddings).unwrap();
    }
    let view = memory.snapshot().unwrap();
    let ids = view.chunks(6).unwrap();
    let found = |common_weight| {
        let request = EmbeddingRequest {
            embedder: &EMBEDDER,
            query: &at(0.0),
            chunk_weight: 0.0,
            common_weight,
            top_k: 6,
            also: &[],
        };
        view.search_embeddings(&request).unwrap()
    };
    let order = |found: &EmbeddingHits| found.hits.iter().map(|hit| hit.chunk).collect::<Vec<_>>();
    assert_eq!(order(&found(0.0))[..3], [ids[0], ids[1], ids[2]]);
    let less_common = found(0.5);
    assert_eq!(less_common.hits[0].chunk, ids[2]);
    for hit in &less_common.hits {
        let own = ids.iter().position(|id| *id == hit.chunk).unwrap();
        let mut like: Vec<f32> =
            (0..6).filter(|other| *other != own).map(|other| (angles[own] - angles[other]).cos()).collect();
        like.sort_by(|a, b| b.total_cmp(a));
        let expected = angles[own].cos() - 0.5 * (like[0] + like[1] + like[2]) / 3.0;
        assert!((hit.meaning.score - expected).abs() < 0.02, "{} and {expected}", hit.meaning.score);
        assert!((hit.meaning.likeness - angles[own].cos()).abs() < 0.02);
        assert_eq!(hit.meaning.sentence, Some((0, 1)));
    }
}

#[test]
fn embeddings_go_with_their_chunks() {
    let (storage, store, memory) = books();
    write_document(&memory, "a", 3, 1);
    write_document(&memory, "b", 3, 10);
    embed_all(&memory, &EMBEDDER);
    embed_all(&memory, &OTHER);
    assert_eq!(vector_blobs(&storage), 8, "two blobs of each document, two embedders");
    let view = memory.snapshot().unwrap();
    let late = {
        write_document(&memory, "c", 2, 20);
        memory.unembedded(&EMBEDDER).unwrap().unwrap()
    };
    memory.delete_document("a").unwrap();
    memory.delete_document("c").unwrap();
    // What was deleted while it was embedded leaves nothing.
    memory.embed(&late, &EMBEDDER, &embeddings(&late.texts)).unwrap();
    drop(late);
    assert_eq!(search(&view, &unit(1), 9, &[]).embedded, 6, "an older view sees what it saw");
    assert_eq!(search(&memory.snapshot().unwrap(), &unit(1), 9, &[]).embedded, 3);
    drop(view);
    assert_eq!(vector_blobs(&storage), 4);
    // Truncated chunks are not found.
    let mut writer = memory.writer("b", [].into()).unwrap();
    writer.truncate(1).unwrap();
    writer.commit(mnemon_memory::ResumePoint::default()).unwrap();
    drop(writer);
    assert_eq!(search(&memory.snapshot().unwrap(), &unit(1), 9, &[]).hits.len(), 1);
    // What lived beside deleted text is embedded again.
    memory.compact().unwrap();
    assert_eq!((vector_blobs(&storage), memory.embedded_chunks(&EMBEDDER)), (0, 0));
    assert_eq!(embed_all(&memory, &EMBEDDER), 1);
    store.delete_memory("tenant", "books").unwrap();
    drop((memory, store));
    assert!(storage.list_blobs().unwrap().is_empty());
}

/// A compaction that joins blobs of chunks joins their vectors, and what these take counts.
#[test]
fn embeddings_are_joined_and_counted() {
    let (storage, store, memory) = books();
    let mut writer = memory.writer("a", [].into()).unwrap();
    let written: Vec<KvChunk> = (0..4).flat_map(|at| extend(&mut writer, memory.geometry(), 1, at, at == 3)).collect();
    drop(writer);
    let vectors = |text: &str| [0, 1, 2].map(|more| unit(seed_of(text) + more));
    for embedder in [EMBEDDER, OTHER] {
        while let Some(next) = memory.unembedded(&embedder).unwrap() {
            let [chunk, one, two] = vectors(&next.texts.concat());
            let sentences = [one, two].concat();
            let embeddings = Embeddings { dim: DIM, chunks: chunk, sentences, chunk_of_sentence: vec![0, 0] };
            memory.embed(&next, &embedder, &embeddings).unwrap();
        }
    }
    let bytes = |prefix: &str| {
        let blobs = storage.list_blobs().unwrap().into_iter().filter(|blob| blob.name.starts_with(prefix));
        blobs.map(|blob| blob.bytes).sum::<u64>()
    };
    assert_eq!((vector_blobs(&storage), memory.info().embedding_bytes), (8, bytes("vectors-")));
    memory.update_limits(|limits| limits.max_bytes = Some(bytes("") + 1)).unwrap();
    let mut writer = memory.writer("b", [].into()).unwrap();
    writer.append(written[0].clone()).unwrap();
    let refused = writer.commit(mnemon_memory::ResumePoint::default());
    assert!(matches!(refused, Err(Error::Quota { what: "bytes", .. })), "{refused:?}");
    drop(writer);

    let done = memory.compact().unwrap();
    assert_eq!((done.blobs_before, done.blobs_after, vector_blobs(&storage)), (4, 2, 4));
    assert_eq!((done.bytes_after, memory.info().embedding_bytes), (bytes(""), bytes("vectors-")));
    assert_eq!((memory.embedded_chunks(&EMBEDDER), memory.embedded_chunks(&OTHER)), (4, 4));
    drop((memory, store));
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.memory("tenant", "books").unwrap();
    assert_eq!(memory.info().embedding_bytes, bytes("vectors-"), "known when it is opened");

    let query = unit(99);
    let found = search(&memory.snapshot().unwrap(), &query, 4, &memory.snapshot().unwrap().chunks(4).unwrap()).also;
    for (at, found) in found.into_iter().enumerate() {
        let of = |at: usize| vectors(&written[at].text);
        let [own, one, two] = of(at);
        let [beside, ..] = of(at ^ 1);
        let sum: Vec<f32> = own.iter().zip(&beside).map(|(own, beside)| own + 0.25 * beside).collect();
        let whole = dot(&query, &sum) / dot(&sum, &sum).sqrt();
        let expected = f32::midpoint(whole, dot(&query, &one).max(dot(&query, &two)));
        let score = found.unwrap().score;
        assert!((score - expected).abs() < 0.02, "{at}: {score} and {expected}");
    }
    memory.delete_document("a").unwrap();
    assert_eq!((memory.info().embedding_bytes, bytes("vectors-")), (0, 0));
}

#[test]
fn damaged_embeddings_are_made_again() {
    let (storage, store, memory) = books();
    write_document(&memory, "a", 3, 1);
    embed_all(&memory, &EMBEDDER);
    drop((memory, store));
    let name =
        storage.list_blobs().unwrap().iter().find(|blob| blob.name.starts_with("vectors-")).unwrap().name.clone();
    storage.damage_blob(&name, |bytes| bytes[100] ^= 1);
    let shared: Arc<dyn Storage> = Arc::clone(&storage) as _;
    assert_eq!(check(&shared, false).unwrap().findings.len(), 1);
    let store = open(Arc::clone(&shared));
    let memory = store.memory("tenant", "books").unwrap();
    let embedded = search(&memory.snapshot().unwrap(), &unit(1), 9, &[]).embedded;
    assert!(embedded < 3, "the other blob's are used");
    assert_eq!(embed_all(&memory, &EMBEDDER), 1);
    assert_eq!(search(&memory.snapshot().unwrap(), &unit(1), 9, &[]).embedded, 3);
    drop((memory, store));
    assert!(check(&shared, false).unwrap().is_sound());
    // A repair moves them aside; without their chunks they are removed at opening.
    storage.damage_blob(&name, |bytes| bytes[100] ^= 1);
    check(&shared, true).unwrap();
    assert!(check(&shared, false).unwrap().is_sound() && vector_blobs(&storage) == 1);
    storage.write_blob("vectors-00000000000000ff-0303030303030303", &[b"stray"]).unwrap();
    drop(open(shared));
    assert_eq!(vector_blobs(&storage), 1);
}

#[test]
fn several_memories_and_bad_requests() {
    let (_, store, memory) = books();
    write_document(&memory, "a", 3, 1);
    embed_all(&memory, &EMBEDDER);
    let other = store.create_memory("tenant", "other", small_spec()).unwrap();
    write_document(&other, "b", 2, 50);
    let members: Vec<Arc<dyn Recall>> = vec![Arc::new(memory.snapshot().unwrap()), Arc::new(other.snapshot().unwrap())];
    let union = UnionRecall::new(members).unwrap();
    let found = search(&union, &unit(1), 9, &union.chunks(9).unwrap());
    assert!(found.embedded == 3 && found.hits.len() == 3 && found.also.iter().flatten().count() == 3);
    let least = found.hits.iter().map(|hit| hit.meaning.score).fold(f32::INFINITY, f32::min);
    assert!((found.least - least).abs() < 1e-6, "what has no vectors has no least score");

    let view = memory.snapshot().unwrap();
    let (query, short) = (unit(1), [1.0]);
    let request = EmbeddingRequest {
        embedder: &EMBEDDER,
        query: &query,
        chunk_weight: 0.5,
        common_weight: 0.0,
        top_k: 1,
        also: &[],
    };
    for wrong in [
        EmbeddingRequest { top_k: 0, ..request },
        EmbeddingRequest { top_k: 5000, ..request },
        EmbeddingRequest { chunk_weight: 1.5, ..request },
        EmbeddingRequest { chunk_weight: f32::NAN, ..request },
        EmbeddingRequest { common_weight: -0.5, ..request },
        EmbeddingRequest { common_weight: f32::NAN, ..request },
        EmbeddingRequest { query: &short, ..request },
        EmbeddingRequest { query: &[f32::NAN], ..request },
    ] {
        assert!(matches!(view.search_embeddings(&wrong), Err(mnemon_memory::Error::Invalid(_))));
    }
    let next = other.unembedded(&EMBEDDER).unwrap().unwrap();
    let good = embeddings(&next.texts);
    for wrong in [
        Embeddings { dim: 0, ..good.clone() },
        Embeddings { chunks: good.chunks[DIM..].to_vec(), ..good.clone() },
        Embeddings { sentences: Vec::new(), ..good.clone() },
        Embeddings { chunk_of_sentence: vec![9, 9], ..good.clone() },
        Embeddings { chunks: vec![f32::NAN; good.chunks.len()], ..good.clone() },
    ] {
        assert!(matches!(other.embed(&next, &EMBEDDER, &wrong), Err(Error::Invalid { .. })));
    }
    other.embed(&next, &EMBEDDER, &good).unwrap();
    other.embed(&next, &EMBEDDER, &good).unwrap();
}
