//! An archive becomes a memory, or leaves no trace.
//!
//! Until all of it has come, the new memory is one without a name that counts as deleted (its record `g` is there from
//! the start, durably): a store that is opened after a crash finishes that deletion. The last commit takes the record
//! away and writes the name, at once.

use std::sync::Arc;

use mnemon_memory::Invalid;

use super::chunks::ArchiveChunks;
use super::format::{ArchiveDocument, ArchiveSpec, ArchiveTotals};
use super::reader::{ArchiveReader, Section};
use crate::engine::Engine;
use crate::engine::deletion::{delete, remove_memory_records};
use crate::engine::extent_builder::{ExtentBuilder, ExtentOwner};
use crate::engine::ids::IdKind;
use crate::engine::publish::publish;
use crate::engine::quota::{Held, check_import};
use crate::engine::state::{LiveExtent, MemoryState, entries_of};
use crate::engine::ttl::{Expiries, Times};
use crate::error::{Error, Result};
use crate::format::records::{ChangeRecord, DocumentRecord, NameRecord, document_key, extent_key, memory_key};
use crate::handles::memory::Memory;
use crate::handles::shared::Shared;
use crate::handles::store::Store;
use crate::maintenance::expire::make_room;
use crate::storage::Batch;
use crate::types::names::check_name;

/// Records written at once.
const STEP: usize = 64;

impl Store {
    /// Begins to import an archive as the memory `name` of a tenant, or under the name that it had. With `replace` it takes
    /// the place of the memory of that name, if there is one, when it is complete.
    pub fn import(&self, tenant: &str, name: Option<&str>, replace: bool) -> Result<Import> {
        check_name("tenant", tenant)?;
        if let Some(name) = name {
            check_name("memory name", name)?;
            check_free(&self.shared.engine, tenant, name, replace)?;
        }
        Ok(Import {
            shared: Arc::clone(&self.shared),
            tenant: tenant.to_owned(),
            name: name.map(str::to_owned),
            replace,
            reader: ArchiveReader::new(),
            target: None,
            ended: false,
            failed: false,
        })
    }
}

/// Refuses early what would be refused at the end.
fn check_free(engine: &Engine, tenant: &str, name: &str, replace: bool) -> Result<()> {
    // What expired makes room, and its name is free.
    make_room(engine, tenant);
    match (engine.registry.get(tenant, name), replace) {
        (Some(old), true) => old.check_alive(),
        _ => match engine.registry.check_free(&(tenant.to_owned(), name.to_owned())) {
            // It is being created, and will be replaced.
            Err(Error::MemoryExists { .. }) if replace => Ok(()),
            other => other,
        },
    }
}

/// An import under way. Dropped before [`finish`](Self::finish) it leaves nothing behind, which may block.
///
/// Holds one section of the archive, one buffer of a writer, and what the store keeps of every memory: 12 bytes for each
/// chunk, some 300 for each blob.
pub struct Import {
    shared: Arc<Shared>,
    tenant: String,
    name: Option<String>,
    replace: bool,
    reader: ArchiveReader,
    target: Option<Target>,
    ended: bool,
    failed: bool,
}

/// The memory in the making.
struct Target {
    tenant: String,
    name: String,
    number: u64,
    archived: Box<ArchiveSpec>,
    /// Records not written yet.
    batch: Batch,
    extents: Vec<LiveExtent>,
    documents: u64,
    /// When documents go.
    expiries: Expiries,
    current: Option<Current>,
}

/// The document in the making.
struct Current {
    number: u64,
    id: Arc<str>,
    document: ArchiveDocument,
    builder: ExtentBuilder,
    has_turns: bool,
}

impl Import {
    /// Takes the next bytes of the archive. After an error nothing more is accepted.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(Error::Invalid(Invalid { what: "import", why: "it failed before; begin a new one".into() }));
        }
        self.failed = true;
        self.reader.push(bytes);
        while let Some(section) = self.reader.section()? {
            self.take(section)?;
        }
        self.failed = false;
        Ok(())
    }

    /// What the archive says that it holds, once its beginning has come.
    pub fn totals(&self) -> Option<ArchiveTotals> {
        self.target.as_ref().map(|target| target.archived.totals)
    }

    fn take(&mut self, section: Section) -> Result<()> {
        let engine = Arc::clone(&self.shared.engine);
        match section {
            Section::Spec(archived) => self.begin(&engine, archived),
            Section::Document(document) => self.target()?.document(&engine, document),
            Section::Chunks(chunks) => self.target()?.chunks(&engine, &chunks),
            Section::End(_) => {
                self.ended = true;
                self.target()?.complete_document(&engine)
            }
        }
    }

    fn target(&mut self) -> Result<&mut Target> {
        self.target.as_mut().ok_or_else(|| Error::Archive { byte: 0, why: "it has no beginning".into() })
    }

    fn begin(&mut self, engine: &Engine, archived: Box<ArchiveSpec>) -> Result<()> {
        let name = self.name.clone().unwrap_or_else(|| archived.name.clone());
        check_free(engine, &self.tenant, &name, self.replace)?;
        let limit = engine.options.max_documents_per_memory;
        if archived.totals.documents > limit {
            let advice = "raise the limit of the server, or import less".into();
            return Err(Error::Limit { what: "documents in a memory", limit, advice });
        }
        let number = engine.new_ids(IdKind::Memory, 1)?;
        let mut batch = Batch::default();
        batch.put(memory_key(b'g', number), Vec::new());
        engine.commit(&batch)?;
        let (tenant, batch) = (self.tenant.clone(), Batch::default());
        let (extents, documents, expiries, current) = (Vec::new(), 0, Expiries::default(), None);
        self.target = Some(Target { tenant, name, number, archived, batch, extents, documents, expiries, current });
        Ok(())
    }

    /// The memory appears, durably and at once, if all of the archive has come.
    pub fn finish(mut self) -> Result<Memory> {
        if self.failed {
            return Err(Error::Invalid(Invalid { what: "import", why: "it failed before; begin a new one".into() }));
        }
        self.reader.finish()?;
        let Some(mut target) = self.target.take().filter(|_| self.ended) else {
            return Err(Error::Archive { byte: self.reader.position(), why: "it has no end".into() });
        };
        let engine = Arc::clone(&self.shared.engine);
        let sequence = target.archived.sequence;
        let record = NameRecord {
            number: target.number,
            created_unix_ms: target.archived.created_unix_ms,
            spec: target.archived.spec.clone(),
            limits: target.archived.limits,
        };
        // A time to live begins with the import.
        let changed_unix_ms = engine.now_unix_ms();
        let documents = std::mem::take(&mut target.expiries);
        let times = Times { limits: target.archived.limits, changed_unix_ms, documents };
        let state = Arc::new(MemoryState::new(sequence, target.documents, target.extents.clone(), []));
        let mut batch = std::mem::take(&mut target.batch);
        let changed_unix_ms = record.limits.ttl_ms.map_or(0, |_| changed_unix_ms);
        batch.put(memory_key(b'm', target.number), ChangeRecord { sequence, changed_unix_ms }.encode());
        batch.delete(memory_key(b'g', target.number));
        let key = (target.tenant.clone(), target.name.clone());
        let account = engine.accounts.of(&key.0);
        make_room(&engine, &key.0);
        let (limits, imported) = (record.limits, Held::of(&state.totals));
        let check = |replaced| check_import((&key.0, &key.1), &account, &limits, imported, replaced);
        let placed = publish(&engine, &key, (record, state, times), batch, self.replace, check);
        match placed {
            Ok((memory_entry, old)) => {
                if let Some(old) = old {
                    delete(&engine, &old);
                }
                self.shared.sealer.notify(&engine, &memory_entry);
                Ok(Memory::new(Arc::clone(&self.shared), memory_entry))
            }
            Err(error) => {
                // Refused: nothing was tried. After a failure, whether the memory is there is for the next opening to
                // tell.
                let refused = matches!(
                    error,
                    Error::MemoryExists { .. }
                        | Error::Limit { .. }
                        | Error::DocumentBusy { .. }
                        | Error::Damaged { .. }
                        | Error::Quota { .. }
                );
                if refused {
                    self.target = Some(target);
                }
                Err(error)
            }
        }
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        let Some(target) = self.target.take() else { return };
        if let Err(error) = remove_memory_records(&self.shared.engine, target.number) {
            tracing::warn!(%error, "records of an import that was given up stay until the store is opened again");
        }
        for extent in &target.extents {
            extent.extent.file.mark_for_deletion();
        }
    }
}

impl Target {
    fn put(&mut self, engine: &Engine, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.batch.put(key, value);
        if self.batch.changes().len() < STEP {
            return Ok(());
        }
        engine.commit(&std::mem::take(&mut self.batch))
    }

    fn document(&mut self, engine: &Engine, document: ArchiveDocument) -> Result<()> {
        self.complete_document(engine)?;
        let number = engine.new_ids(IdKind::Document, 1)?;
        let id = Arc::from(document.id.as_str());
        self.current = Some(Current { number, id, document, builder: ExtentBuilder::new(0, 0, 0), has_turns: false });
        Ok(())
    }

    fn chunks(&mut self, engine: &Engine, chunks: &ArchiveChunks) -> Result<()> {
        let options = &engine.options;
        let policy = self.archived.spec.geometry.entry_policy;
        let (mut ordinal, mut tokens_at, mut bytes_at) = (chunks.first_ordinal, chunks.token_start, chunks.byte_start);
        for (tokens, bytes, stored) in chunks.chunks() {
            let Some(current) = &mut self.current else { return Ok(()) };
            current.has_turns |= chunks.has_turns;
            let builder = &current.builder;
            // As a writer: blobs of bounded size, of whole segments.
            let most_chunks = (options.seal_entries / 4 / entries_of(policy, tokens as usize).max(1)).max(1);
            let full = builder.chunks() > 0
                && (builder.bytes() + stored.len() > options.writer_buffer_bytes
                    || builder.chunks() as usize >= most_chunks);
            let follows = builder.first_ordinal + u64::from(builder.chunks()) == ordinal;
            if full || !follows || builder.chunks() == 0 {
                self.spill(engine)?;
                let Some(current) = &mut self.current else { return Ok(()) };
                current.builder = ExtentBuilder::new(ordinal, tokens_at, bytes_at);
            }
            if let Some(current) = &mut self.current {
                current.builder.push_stored(stored, tokens, bytes);
            }
            (ordinal, tokens_at, bytes_at) = (ordinal + 1, tokens_at + u64::from(tokens), bytes_at + u64::from(bytes));
        }
        Ok(())
    }

    /// Writes the chunks at hand to a blob.
    fn spill(&mut self, engine: &Engine) -> Result<()> {
        let Some(current) = self.current.as_ref().filter(|current| current.builder.chunks() > 0) else {
            return Ok(());
        };
        let blob = engine.new_ids(IdKind::Blob, 1)?;
        let first_chunk = engine.new_ids(IdKind::Chunk, u64::from(current.builder.chunks()))?;
        let spec = &self.archived.spec;
        let owner = ExtentOwner {
            tenant: &self.tenant,
            memory: &self.name,
            memory_number: self.number,
            spec,
            document: current.number,
            document_id: &current.id,
            metadata: &current.document.metadata,
            // No commit was before it.
            after: 0,
        };
        let extent = Arc::new(current.builder.write(&engine.storage, &owner, blob, first_chunk)?);
        let live = LiveExtent::new(&spec.geometry, Arc::clone(&extent), extent.chunks());
        let record = extent.record(live.live).encode();
        self.extents.push(live);
        self.put(engine, extent_key(self.number, first_chunk), record)
    }

    /// Writes what is left of the document at hand, and its record.
    fn complete_document(&mut self, engine: &Engine) -> Result<()> {
        self.spill(engine)?;
        let Some(Current { number, id, document, has_turns, .. }) = self.current.take() else { return Ok(()) };
        let record = DocumentRecord {
            number,
            created_unix_ms: document.created_unix_ms,
            updated_unix_ms: document.updated_unix_ms,
            sequence: document.sequence,
            chunks: document.chunks,
            tokens: document.tokens,
            bytes: document.bytes,
            resume: document.resume,
            metadata: document.metadata,
            lost_chunks: document.lost_chunks,
            ttl_ms: document.ttl_ms,
            has_turns,
        };
        self.documents += 1;
        self.expiries.set(id, record.expires_unix_ms(self.archived.limits.document_ttl_ms));
        self.put(engine, document_key(self.number, &document.id), record.encode())
    }
}
