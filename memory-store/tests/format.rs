//! Bytes as `docs/format.md` specifies them, read without the store's own code: a change of format shows here.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{chosen, geometry, keys_only, open, small_spec, spec, write_document};
use half::f16;
use mnemon_memory::{EntryPolicy, KvDtype};
use mnemon_memory_store::{InMemoryStorage, Storage};

/// Reads fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> &'a str {
        let len = self.u32() as usize;
        str::from_utf8(self.take(len)).unwrap()
    }
}

fn crc(bytes: &[u8]) -> u32 {
    // The definition, bit by bit.
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// The index of words of two chunks, w1-0 to w1-7 and w2-0 to w2-7.
fn assert_words(section: &[u8]) {
    let mut words = Fields(section);
    assert_eq!((words.take(4), words.take(4)), (&b"WORD"[..], &[1, 0, 0, 0][..]));
    let (chunks, terms, lists, postings) = (words.u32(), words.u32() as usize, words.u32(), words.u32());
    let end = 24 + (lists + postings) as usize;
    assert_eq!((chunks, section.len()), (2, (end + 4).next_multiple_of(8)));
    assert_eq!(crc(&section[..end]), u32::from_le_bytes(section[end..end + 4].try_into().unwrap()));
    let number = |words: &mut Fields<'_>| {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = u32::from(words.take(1)[0]);
            number |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    };
    assert_eq!((number(&mut words), number(&mut words)), (16, 16), "words of each chunk");
    let mut term = 0;
    let dictionary: Vec<(u32, u32)> = (0..terms)
        .map(|_| {
            term += number(&mut words);
            (term, number(&mut words))
        })
        .collect();
    let mut found = std::collections::BTreeMap::new();
    for (term, bytes) in dictionary {
        let (mut list, mut chunk) = (Fields(words.take(bytes as usize)), 0);
        while !list.0.is_empty() {
            let step = number(&mut list);
            chunk += step >> 1;
            let count = if step & 1 == 1 { number(&mut list) } else { 1 };
            found.entry(term).or_insert_with(Vec::new).push((chunk, count));
        }
    }
    assert_eq!(found[&crc(b"w1")], [(0, 8)]);
    assert_eq!(found[&crc(b"w2")], [(1, 8)]);
    assert_eq!(found[&crc(b"7")], [(0, 1), (1, 1)]);
    // Compounds have parts: the letter and the digit of `w1` and `w2`.
    assert_eq!(found[&crc(b"w")], [(0, 8), (1, 8)]);
}

#[test]
fn a_chunk_blob_tells_everything_about_its_chunks() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    let written = write_document(&memory, "a/book", 2, 1);
    let info = storage.list_blobs().unwrap().remove(0);
    assert_eq!(info.name, "chunks-0000000000000001");
    let blob = storage.read_blob(&info.name, 0, info.bytes as usize).unwrap();

    let mut header = Fields(&blob);
    assert_eq!(header.take(8), b"MNMNCHNK");
    let (format, body, fields) = (header.u32(), header.u32() as usize, header.u32() as usize);
    assert_eq!((format, body % 64), (4, 0));
    assert_eq!(crc(&blob[..20 + fields]), u32::from_le_bytes(blob[20 + fields..24 + fields].try_into().unwrap()));
    assert_eq!((header.u64(), header.u64(), header.text(), header.text()), (1, 1, "tenant", "books"));
    assert_eq!(header.take(32), [7; 32]);
    // Two layers, 2 heads of 8 values, binary32, chunks of 8 tokens, an entry for each token.
    let geometry = (header.u32(), header.u32(), header.u32(), header.u32(), header.u32());
    assert_eq!(geometry, (2, 1, 3, 2, 8));
    assert_eq!((header.take(1), header.u32(), header.take(3)), (&[0][..], 8, &[0, 0, 0][..]));
    assert_eq!((header.text(), header.text()), ("test model", "for tests"));
    assert_eq!((header.u64(), header.text(), header.u32()), (1, "a/book", 0));
    let (first_chunk, ordinal, token, byte) = (header.u64(), header.u64(), header.u64(), header.u64());
    assert_eq!((first_chunk, ordinal, token, byte), (1, 0, 0, 0));
    assert_eq!(header.u32(), 2);
    let body_bytes = header.u64() as usize;
    assert_eq!(header.u64(), 0, "nothing was committed before");

    // Two chunks of the words w1-0 to w1-7 and w2-0 to w2-7.
    let section = &blob[body + body_bytes..blob.len() - (3 * 12 + 4 + 4 + 8)];
    assert_words(section);

    let mut footer = Fields(&blob[body + body_bytes + section.len()..]);
    let places: Vec<_> = (0..3).map(|_| (footer.u32() as usize, footer.u32(), footer.u32())).collect();
    assert_eq!(places[0], (0, 0, 0));
    assert_eq!(places[2], (body_bytes, 16, written[1].span.byte_end as u32));
    let checked = &blob[body + body_bytes + section.len()..][..3 * 12 + 4];
    assert_eq!((footer.u32(), footer.u32(), footer.take(8)), (3, crc(checked), &b"MNMNEND1"[..]));
    assert!(footer.0.is_empty());

    for (place, chunk) in places.iter().zip(&written) {
        let bytes = &blob[body + place.0..];
        let side_bytes = 2 * 8 * 8 * 4;
        let side = (side_bytes + 4_usize).next_multiple_of(8);
        for slot in 0..2 {
            for (at, numbers) in [(2 * slot, &chunk.keys[slot]), (2 * slot + 1, &chunk.values[slot])] {
                let stored = &bytes[at * side..][..side_bytes];
                assert!(stored.chunks(4).zip(numbers).all(|(stored, number)| stored == number.to_le_bytes()));
                assert_eq!(crc(stored).to_le_bytes(), bytes[at * side + side_bytes..][..4]);
            }
        }
        let mut meta = Fields(&bytes[4 * side..]);
        let (magic, len) = (meta.take(4), meta.u32() as usize);
        assert_eq!(magic, b"META");
        assert_eq!(crc(&bytes[4 * side..][..len - 4]).to_le_bytes(), bytes[4 * side + len - 4..][..4]);
        assert_eq!(meta.u64(), chunk.span.token_start / 8);
        let span = (meta.u64(), meta.u64(), meta.u64(), meta.u64());
        assert_eq!(span, (chunk.span.byte_start, chunk.span.byte_end, chunk.span.token_start, chunk.span.token_end));
        let (tokens, starts, text) = (meta.u32(), meta.u32(), meta.u32());
        assert_eq!((tokens, starts, text as usize), (8, 0, chunk.text.len()));
        assert!(chunk.tokens.iter().all(|token| meta.u32() == *token));
        assert_eq!(meta.take(text as usize), chunk.text.as_bytes());
        if !chunk.turns.is_empty() {
            assert_eq!(meta.u32() as usize, chunk.turns.len());
        }
        for turn in &chunk.turns {
            assert_eq!((meta.u32(), meta.u32()), (turn.start, 1));
            assert_eq!((meta.text(), meta.text()), ("speaker", turn.metadata["speaker"].as_str()));
        }
    }
    assert!(written.iter().any(|chunk| !chunk.turns.is_empty()));
}

#[test]
fn chosen_key_heads_follow_the_layers() {
    for (geometry, layers) in [
        (chosen(KvDtype::F32, EntryPolicy::BlockMean { tokens: 3 }), &[1, 3][..]),
        (keys_only(KvDtype::F32, EntryPolicy::BlockMean { tokens: 3 }), &[]),
    ] {
        let storage = Arc::new(InMemoryStorage::new());
        let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
        let memory = store.create_memory("tenant", "books", spec(geometry)).unwrap();
        let written = write_document(&memory, "a", 24, 1);
        let name = "chunks-0000000000000001";
        let bytes = storage.list_blobs().unwrap().iter().find(|blob| blob.name == name).unwrap().bytes;
        let blob = storage.read_blob(name, 0, bytes as usize).unwrap();
        let mut header = Fields(&blob);
        header.take(12);
        let body = header.u32() as usize;
        header.take(4 + 16);
        assert_eq!((header.text(), header.text(), header.take(32)), ("tenant", "books", &[7; 32][..]));
        let count = header.u32();
        assert_eq!((0..count).map(|_| header.u32()).collect::<Vec<_>>(), layers);
        assert_eq!((header.u32(), header.u32(), header.take(1), header.u32()), (2, 8, &[0][..], 8));
        // A mean of blocks of 3 tokens; three key heads.
        assert_eq!((header.take(3), header.u32()), (&[0x81, 3, 0][..], 3));
        let key_heads: Vec<_> = (0..3).map(|_| (header.u32(), header.u32())).collect();
        assert_eq!((key_heads, header.text()), (vec![(0, 1), (1, 0), (5, 0)], "test model"));

        let chunk = &written[0];
        let mut rest = Fields(&blob[body..]);
        let sides = chunk.keys.iter().zip(&chunk.values).flat_map(|(keys, values)| [keys, values]);
        let parts: Vec<_> = sides.chain(&chunk.lone_keys).collect();
        assert_eq!(parts.len(), if layers.is_empty() { 3 } else { 4 + 2 });
        for numbers in parts {
            let stored = rest.take(4 * numbers.len());
            assert!(stored.chunks(4).zip(numbers).all(|(stored, number)| stored == number.to_le_bytes()));
            assert_eq!(crc(stored), rest.u32());
            assert_eq!(rest.take(4), [0; 4]);
        }
        assert_eq!(rest.take(4), b"META");

        let graphs: Vec<_> =
            storage.list_blobs().unwrap().into_iter().filter(|b| b.name.starts_with("graph-")).collect();
        assert_eq!(graphs.len(), 3);
        for (index, info) in graphs.iter().enumerate() {
            let blob = storage.read_blob(&info.name, 0, info.bytes as usize).unwrap();
            let mut fields = Fields(&blob[12..]);
            assert_eq!((fields.u64(), fields.u64(), fields.u32(), fields.u32()), (1, 1, index as u32, 0));
        }
    }
}

#[test]
fn codes_stand_for_offsets_and_steps() {
    const SHAPE: (usize, usize, usize) = (2, 8, 8);
    let (heads, tokens, dim) = SHAPE;
    for (dtype, bits) in [(KvDtype::Int8, 8), (KvDtype::Int4, 4)] {
        let storage = Arc::new(InMemoryStorage::new());
        let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
        let memory = store.create_memory("tenant", "books", spec(geometry(dtype, EntryPolicy::PerToken))).unwrap();
        let written = write_document(&memory, "a", 1, 1);
        let info = storage.list_blobs().unwrap().remove(0);
        let blob = storage.read_blob(&info.name, 0, info.bytes as usize).unwrap();
        let body = u32::from_le_bytes(blob[12..16].try_into().unwrap()) as usize;
        let mut rest = Fields(&blob[body..]);
        for slot in 0..2 {
            let by_channel = |head: usize, _: usize, channel: usize| head * dim + channel;
            let by_token = |head: usize, token: usize, _: usize| head * tokens + token;
            let group_of: [&dyn Fn(usize, usize, usize) -> usize; 2] = [&by_channel, &by_token];
            for (numbers, group_of) in [&written[0].keys[slot], &written[0].values[slot]].into_iter().zip(group_of) {
                let half = |fields: &mut Fields<'_>| f16::from_le_bytes(fields.take(2).try_into().unwrap()).to_f32();
                let stored = rest.0;
                let groups: Vec<(f32, f32)> = (0..16).map(|_| (half(&mut rest), half(&mut rest))).collect();
                let codes = rest.take(numbers.len() * bits / 8);
                let len = stored.len() - rest.0.len();
                assert_eq!(crc(&stored[..len]), rest.u32());
                rest.take((len + 4).next_multiple_of(8) - len - 4);
                for (at, number) in numbers.iter().enumerate() {
                    let (head, token, channel) = (at / (tokens * dim), at / dim % tokens, at % dim);
                    let code = if bits == 8 { codes[at] } else { codes[at / 2] >> (at % 2 * 4) & 15 };
                    let (offset, step) = groups[group_of(head, token, channel)];
                    let error = (offset + step * f32::from(code) - number).abs();
                    assert!(error < step / 2.0 + 2e-3, "{dtype}: {error} with steps of {step}");
                }
            }
        }
        assert_eq!(rest.take(4), b"META");
        assert_eq!(heads * tokens * dim, written[0].keys[0].len());
    }
}

#[test]
fn a_graph_blob_names_its_owner() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    let written = write_document(&memory, "a", 12, 1);
    let blobs = storage.list_blobs().unwrap();
    let info = blobs.iter().find(|blob| blob.name.starts_with("graph-")).unwrap();
    let blob = storage.read_blob(&info.name, 0, info.bytes as usize).unwrap();
    let (body, checksum) = blob.split_last_chunk::<4>().unwrap();
    assert_eq!(crc(body), u32::from_le_bytes(*checksum));
    let mut fields = Fields(&blob);
    assert_eq!((fields.take(8), fields.u32()), (&b"MNMNGRPH"[..], 2));
    assert_eq!((fields.u64(), fields.u64(), fields.u32(), fields.u32()), (1, 1, 0, 0));
    let (n, dim, chunks) = (fields.u32() as usize, fields.u32() as usize, fields.u32() as usize);
    assert_eq!((n, dim), (96, 8));
    let (m, entry_point, named, links) = (fields.u32() as usize, fields.u32(), fields.u32(), fields.u32() as usize);
    assert!((entry_point as usize) < n && named == 0 && links > 0);
    let levels = fields.take(1)[0];
    let nodes: Vec<usize> = (0..levels).map(|_| fields.take(3)).map(|b| b[0] as usize | (b[1] as usize) << 8).collect();
    // Every part begins at a multiple of 64.
    let aligned = |bytes: usize| bytes.next_multiple_of(64);
    let upper: usize = nodes.iter().map(|nodes| aligned(4 * nodes) + aligned(4 * nodes * m)).sum();
    let chunks_at = 128 + aligned(8 * dim);
    let starts_at = chunks_at + aligned(16 * chunks) + upper;
    let links_at = starts_at + aligned(4 * (n + 1));
    let coarse_at = links_at + aligned(3 * links);
    assert_eq!(blob.len(), coarse_at + 2 * aligned(n * dim) + 4);
    assert_eq!(u64::from_le_bytes(*blob[chunks_at..].first_chunk().unwrap()), 1, "the first chunk");
    let u32_at = |at: usize| u32::from_le_bytes(*blob[at..].first_chunk().unwrap());
    assert_eq!((u32_at(starts_at), u32_at(starts_at + 4 * n) as usize), (0, links));
    // Codes stand for the stored keys.
    let keys: Vec<f32> = written.iter().flat_map(|chunk| chunk.keys[0][..dim * 8].to_vec()).collect();
    let number = |at: usize| f32::from_le_bytes(*blob[at..].first_chunk().unwrap());
    for (at, key) in keys.iter().enumerate().take(n * dim) {
        let (offset, step) = (number(128 + 4 * (at % dim)), number(128 + 4 * (dim + at % dim)));
        let code = u32::from(blob[coarse_at + at]) << 8 | u32::from(blob[coarse_at + aligned(n * dim) + at]);
        assert!((offset + step * code as f32 - key).abs() <= step, "{at}");
    }
}

/// The words of a blob with `places` places.
fn words_section(storage: &InMemoryStorage, name: &str, places: usize) -> Vec<u8> {
    let bytes = storage.list_blobs().unwrap().iter().find(|blob| blob.name == name).unwrap().bytes;
    let blob = storage.read_blob(name, 0, bytes as usize).unwrap();
    let footer = blob.len() - (places * 12 + 4 + 4 + 8);
    let section = blob[..footer].windows(4).rposition(|magic| magic == b"WORD").unwrap();
    blob[section..footer].to_vec()
}

#[test]
fn what_the_first_version_wrote_is_read() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 2, 1);
    drop((memory, store));
    // Numbers without checksums, and headers that end with the length of the body.
    let mut batch = mnemon_memory_store::storage::Batch::default();
    let words = words_section(&storage, "chunks-0000000000000001", 3).len() as u64;
    for (key, mut value) in storage.scan(b"", None, 100).unwrap() {
        match key[0] {
            b'v' | b'm' => batch.put(key, value[..value.len() - 4].to_vec()),
            b'e' => {
                let bytes = u64::from_le_bytes(*value[8..].first_chunk().unwrap()) - words;
                value[8..16].copy_from_slice(&bytes.to_le_bytes());
                let end = value.len() - 4;
                let checksum = crc(&value[..end]).to_le_bytes();
                value[end..].copy_from_slice(&checksum);
                batch.put(key, value);
            }
            _ => {}
        }
    }
    storage.apply(&batch).unwrap();
    storage.damage_blob("chunks-0000000000000001", |bytes| {
        // Without words.
        let footer = bytes.len() - (3 * 12 + 4 + 4 + 8);
        bytes.drain(footer - words as usize..footer);
        let fields = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize - 8;
        bytes[8] = 1;
        bytes[16..20].copy_from_slice(&(fields as u32).to_le_bytes());
        let checksum = crc(&bytes[..20 + fields]).to_le_bytes();
        bytes[20 + fields..24 + fields].copy_from_slice(&checksum);
        bytes[24 + fields..32 + fields].fill(0);
    });
    let storage: Arc<dyn Storage> = storage;
    let report = mnemon_memory_store::check(&storage, false).unwrap();
    assert!(report.is_sound(), "{:#?}", report.findings);
    let memory = open(storage).memory("tenant", "books").unwrap();
    assert_eq!(common::texts(&memory.snapshot().unwrap()).len(), 2);
    write_document(&memory, "b", 2, 1);
}
