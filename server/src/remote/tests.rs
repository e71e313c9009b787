//! What a store on another machine answers is what one in this process does.

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_client::ConnectOptions;
use mnemon_memory::{
    ChunkSelection, EntryPolicy, Error, Fingerprint, KeyHead, KvChunk, KvDtype, KvGeometry, OpenMemory, Recall,
    ResumePoint, SearchRequest, SourceSpan, TermRequest, Turn, WordRequest,
};
use mnemon_memory_store::{InMemoryStorage, MemorySpec, Store, StoreOptions};

use super::RemoteStore;
use crate::embedded::Embedded;
use crate::settings::Settings;

const DIM: usize = 4;

fn geometry(layers: &[u32]) -> KvGeometry {
    KvGeometry {
        layers: layers.to_vec(),
        key_heads: [(0, 1), (1, 0), (1, 1), (4, 0)].map(|(layer, head)| KeyHead { layer, head }).to_vec(),
        kv_heads: 2,
        head_dim: DIM as u32,
        dtype: KvDtype::F16,
        chunk_tokens: 3,
        entry_policy: EntryPolicy::PerToken,
    }
}

/// The same numbers for the same seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64).map(|at| ((at * 37 + seed * 11) % 17) as f32 - 8.0).collect()
}

fn chunk(geometry: &KvGeometry, ordinal: u64) -> KvChunk {
    let layer = |seed: u64| numbers(2 * 3 * DIM, seed + ordinal);
    KvChunk {
        turns: vec![Turn { start: 1, metadata: [("speaker".to_owned(), ordinal.to_string())].into() }],
        span: SourceSpan {
            byte_start: 2 * ordinal,
            byte_end: 2 * ordinal + 2,
            token_start: 3 * ordinal,
            token_end: 3 * ordinal + 3,
        },
        tokens: vec![7, ordinal as u32, 9],
        text: format!("{:02}", ordinal % 100),
        keys: geometry.layers.iter().map(|&of| layer(u64::from(of))).collect(),
        values: geometry.layers.iter().map(|&of| layer(3 + u64::from(of))).collect(),
        importance: Vec::new(),
        lone_keys: geometry.lone_key_heads().map(|key| numbers(3 * DIM, u64::from(key.layer) + 5 + ordinal)).collect(),
    }
}

fn fill(memory: &dyn OpenMemory) {
    let metadata = BTreeMap::from([("date".to_owned(), "monday".to_owned())]);
    let mut writer = memory.writer("d", metadata).unwrap();
    for ordinal in 0..20 {
        writer.append(chunk(memory.geometry(), ordinal)).unwrap();
    }
    writer.commit(ResumePoint::default()).unwrap();
}

fn assert_same(there: &dyn Recall, here: &dyn Recall) {
    assert_eq!((there.geometry(), there.len()), (here.geometry(), here.len()));
    let ids = here.chunks(100).unwrap();
    assert_eq!(there.chunks(100).unwrap(), ids);
    let infos = there.describe(&ids).unwrap();
    assert_eq!(infos, here.describe(&ids).unwrap());
    assert!(infos[0].document > 0 && infos[0].metadata["date"] == "monday");
    for key_heads in [&[0][..], &[3, 1, 3], &[1, 1, 2, 2]] {
        let queries = numbers(2 * key_heads.len() * DIM, 3);
        let request = SearchRequest { key_heads, queries: &queries, top_k: 5, ef: None, exact: true };
        assert_eq!(there.search(&request).unwrap(), here.search(&request).unwrap());
        let scale = vec![1.0; key_heads.len()];
        let choice = ChunkSelection { block_queries: 1, scale: &scale, top_k_chunks: 3 };
        for slot in 0..here.geometry().layers.len() {
            for _ in 0..2 {
                let recalled = there.recall(slot, &request, &choice).unwrap();
                assert_eq!(recalled, here.recall(slot, &request, &choice).unwrap());
            }
        }
    }
    // Some of them are known by now.
    for some in [&ids[2..9], &ids[..], &[]] {
        assert_eq!(there.fetch_layers(some).unwrap(), here.fetch_layers(some).unwrap());
        for (before, after) in [(0, 0), (1, 2), (700, 600)] {
            let there = there.neighbours(some, before, after).unwrap();
            assert_eq!(there, here.neighbours(some, before, after).unwrap());
        }
    }
    for terms in [&[vec![7]][..], &[vec![3, 4], vec![9], Vec::new()], &[]] {
        let request = TermRequest { terms, top_k: 6, k1: 1.2, b: 0.75 };
        assert_eq!(there.search_terms(&request).unwrap(), here.search_terms(&request).unwrap());
    }
    for query in ["03 17", "nowhere", ""] {
        let request = WordRequest { query, top_k: 6, k1: 0.4, b: 0.3, neighbours: 0.25 };
        assert_eq!(there.search_words(&request).unwrap(), here.search_words(&request).unwrap());
    }
    assert!(matches!(
        there.search_words(&WordRequest { query: "a", top_k: 0, k1: 0.4, b: 0.3, neighbours: 0.0 }),
        Err(Error::Invalid(_))
    ));
    let request = TermRequest { terms: &[], top_k: 0, k1: 1.2, b: 0.75 };
    assert!(matches!(there.search_terms(&request), Err(Error::Invalid(_))));
    assert!(there.neighbours(&ids, 1 << 40, 0).is_err() && there.fetch(9, &ids).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn key_heads_neighbours_and_terms_are_as_here() {
    let data = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let settings = Settings { listen, data: data.path().to_owned(), store_only: true, ..Settings::default() };
    let server = Embedded::start(settings).await.unwrap();
    let options = ConnectOptions { endpoint: server.endpoint(), ..ConnectOptions::default() };
    let remote = RemoteStore::connect(options).await.unwrap();
    let local =
        Store::open(Arc::new(InMemoryStorage::new()), StoreOptions::default(), Arc::new(|| 1_700_000_000_000)).unwrap();
    for (name, layers) in [("some", &[1, 2][..]), ("none", &[])] {
        let (fingerprint, model_name) = (Fingerprint([7; 32]), "test".to_owned());
        let spec = MemorySpec { fingerprint, geometry: geometry(layers), model_name, description: String::new() };
        let request = mnemon_proto::v1::CreateMemoryRequest {
            name: name.into(),
            spec: Some(crate::wire::spec_to_send(&spec)),
            ..Default::default()
        };
        remote.client_of("default").unwrap().memory_service().create_memory(request).await.unwrap();
        let here = local.create_memory("default", name, spec).unwrap();
        let remote = remote.clone();
        let work = move || {
            let there = remote.memory("default", name).unwrap();
            assert_eq!(OpenMemory::geometry(&there), here.geometry());
            fill(&there);
            fill(&here);
            assert_same(there.view().unwrap().as_ref(), &here.snapshot().unwrap());
        };
        tokio::task::spawn_blocking(work).await.unwrap();
    }
    server.stop().await.unwrap();
}
