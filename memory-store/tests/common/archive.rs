//! Exporting, importing, and what a memory shows.

use std::collections::BTreeMap;

use mnemon_memory::{KvData, KvGeometry, Recall as _, ResumePoint};
use mnemon_memory_store::{Memory, Result, Store};

use super::{extend, spec, write_document};

/// The whole archive of a memory.
pub fn export(memory: &Memory) -> Result<Vec<u8>> {
    let mut export = memory.export()?;
    let mut archive = Vec::new();
    while let Some(mut piece) = export.piece()? {
        archive.append(&mut piece);
    }
    Ok(archive)
}

/// Imports an archive at once.
pub fn import(store: &Store, name: Option<&str>, replace: bool, archive: &[u8]) -> Result<Memory> {
    import_in_pieces(store, name, replace, archive, archive.len().max(1))
}

/// Imports an archive in pieces of so many bytes.
pub fn import_in_pieces(
    store: &Store,
    name: Option<&str>,
    replace: bool,
    archive: &[u8],
    bytes: usize,
) -> Result<Memory> {
    let mut import = store.import("tenant", name, replace)?;
    for piece in archive.chunks(bytes) {
        import.push(piece)?;
    }
    import.finish()
}

/// A memory with a document that was truncated and interrupted, a whole one, and one that was deleted.
pub fn sample(store: &Store, name: &str, geometry: KvGeometry) -> Memory {
    let memory = store.create_memory("tenant", name, spec(geometry)).unwrap();
    let metadata = BTreeMap::from([("author".to_owned(), "somebody".to_owned())]);
    let mut writer = memory.writer("grows/and shrinks", metadata).unwrap();
    extend(&mut writer, memory.geometry(), 6, 1, false);
    extend(&mut writer, memory.geometry(), 3, 20, false);
    writer.truncate(7).unwrap();
    let end = memory.document_chunks("grows/and shrinks", 6, 1).unwrap()[0].span;
    let resume = ResumePoint { safe_byte: end.byte_end, safe_token: end.token_end, complete: false };
    writer.commit(resume).unwrap();
    drop(writer);
    write_document(&memory, "deleted", 2, 40);
    write_document(&memory, "whole", 2, 60);
    memory.delete_document("deleted").unwrap();
    memory
}

/// Everything of a memory but its name and its numbers, keys and values to the last bit.
pub fn described(memory: &Memory) -> Vec<String> {
    let spec = memory.spec();
    let mut lines =
        vec![format!("{:?} {:?} {} {}", spec.fingerprint, spec.geometry, spec.model_name, spec.description)];
    for mut document in memory.list_documents(None, 10_000).unwrap() {
        document.number = 0;
        let chunks = memory.document_chunks(&document.id, 0, usize::MAX).unwrap();
        lines.push(format!("{document:?}"));
        let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
        for chunk in &chunks {
            lines.push(format!("{:?} {:?} {:?}", chunk.span, chunk.tokens, chunk.text));
            lines.push(format!("turns {:?}", chunk.turns));
        }
        let snapshot = memory.snapshot().unwrap();
        for slot in 0..memory.geometry().layers.len() {
            for kv in snapshot.fetch(slot, &ids).unwrap() {
                let bits = |data: &KvData| data.to_f32().iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                lines.push(format!("{} {} {:?} {:?}", kv.token_start, kv.len, bits(&kv.keys), bits(&kv.values)));
            }
        }
    }
    lines
}

/// Makes the checksums of an archive right again, as far as its sections can be told apart.
pub fn mend(archive: &mut [u8]) {
    let seal = |bytes: &mut [u8]| {
        let end = bytes.len() - 4;
        let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
    };
    seal(&mut archive[..16]);
    let mut at = 16;
    while archive.len() - at > 12 + 4 + 32 {
        seal(&mut archive[at..at + 12]);
        let len = u32::from_le_bytes(*archive[at + 4..].first_chunk::<4>().unwrap()) as usize;
        let end = at + 12 + len + 4;
        if end + 32 > archive.len() {
            return;
        }
        seal(&mut archive[at + 12..end]);
        at = end;
    }
    let digest = blake3::hash(&archive[..archive.len() - 32]);
    let start = archive.len() - 32;
    archive[start..].copy_from_slice(digest.as_bytes());
}
