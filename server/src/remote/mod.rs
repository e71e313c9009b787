//! A store on another machine, through the same seams as one in this process.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | the connection, and what is opened through it |
//! | `view.rs` | a view: one stream, one round trip for each request |
//! | `writer.rs` | a writer: chunks are collected, then sent and made durable at once |
//! | `driver.rs` | what runs the connection |
//! | `retry.rs` | what is tried again, and for how long |
//!
//! Everything here blocks until the other side has answered: call it on the blocking pool or on the engine's thread, never
//! on an async thread.

mod driver;
mod retry;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use mnemon_client::{Client, ConnectOptions, Transport};
use mnemon_memory::{ChunkInfo, DocumentWriter, Error, Fingerprint, KvGeometry, OpenMemory, Recall, Result};
use mnemon_memory_store::MemorySpec;
use mnemon_proto::v1;
use mnemon_proto::v1::chunk_store_client::ChunkStoreClient;
use tonic::Status;

use self::driver::Driver;
use self::retry::RetryPolicy;
use self::view::RemoteView;
use self::writer::RemoteWriter;
use crate::filter::DocumentFilter;
use crate::wire;

/// Chunks of one page of a document.
const PAGE_CHUNKS: usize = 1000;

/// A store that another server keeps. Clones share the connection.
#[derive(Clone)]
pub(crate) struct RemoteStore {
    client: Client,
    /// Runs the connection.
    driver: Arc<Driver>,
    /// Documents with a living writer.
    busy: Busy,
    retry: RetryPolicy,
}

impl RemoteStore {
    /// Connects, and asks whether calls will be accepted.
    pub(crate) async fn connect(options: ConnectOptions) -> Result<Self, mnemon_client::Error> {
        let endpoint = options.endpoint.clone();
        let failed = move |error: std::io::Error| mnemon_client::Error::Connect { endpoint, why: error.to_string() };
        let driver = Arc::new(Driver::start().map_err(failed.clone())?);
        let connect = async {
            let client = Client::connect(options).await?;
            client.list_memories_page(1, "").await?;
            Ok::<_, mnemon_client::Error>(client)
        };
        let client = driver.run(connect).await.map_err(failed)??;
        Ok(Self { client, driver, busy: Arc::default(), retry: RetryPolicy::default() })
    }

    /// The connection, for calls on behalf of a tenant.
    pub(crate) fn client_of(&self, tenant: &str) -> Result<Client, Status> {
        self.client.on_behalf_of(tenant).map_err(|error| crate::status::internal(&error.to_string()))
    }

    /// Opens a memory of a tenant to read documents into it.
    pub(crate) fn memory(&self, tenant: &str, name: &str) -> Result<RemoteMemory> {
        let catalog = self.client_of(tenant).map_err(remote)?.memory_service();
        let get = || {
            let mut catalog = catalog.clone();
            let request = v1::GetMemoryRequest { name: name.to_owned() };
            async move { catalog.get_memory(request).await.map(tonic::Response::into_inner) }
        };
        let memory = self.retry.ask(&self.driver, get).map_err(remote)?;
        let spec = v1::MemorySpec { fingerprint: memory.fingerprint, geometry: memory.geometry, model: memory.model };
        let spec = wire::spec(spec, memory.description).map_err(remote)?;
        Ok(RemoteMemory { store: self.clone(), tenant: tenant.to_owned(), name: name.to_owned(), spec })
    }

    /// A view of several memories of a tenant as one, with the documents that `filter` keeps.
    pub(crate) fn view(
        &self,
        tenant: &str,
        names: &[String],
        filter: Option<&DocumentFilter>,
        model: Option<&Fingerprint>,
    ) -> Result<Arc<dyn Recall>> {
        let client = self.client_of(tenant).map_err(remote)?;
        let open = v1::OpenView {
            memories: names.to_vec(),
            fingerprint: model.map_or_else(String::new, Fingerprint::to_hex),
            filter: filter.map(DocumentFilter::to_send),
        };
        Ok(Arc::new(RemoteView::open(client.chunk_store(), Arc::clone(&self.driver), self.retry, open)?))
    }
}

/// The store's own status, so that callers of this server are told just that.
fn remote(status: Status) -> Error {
    Error::Backend(Box::new(status))
}

/// A memory of a store on another machine.
pub(crate) struct RemoteMemory {
    store: RemoteStore,
    tenant: String,
    name: String,
    spec: MemorySpec,
}

impl RemoteMemory {
    /// The store's service, on behalf of the memory's tenant.
    fn service(&self) -> Result<ChunkStoreClient<Transport>> {
        Ok(self.store.client_of(&self.tenant).map_err(remote)?.chunk_store())
    }
}

impl OpenMemory for RemoteMemory {
    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> Fingerprint {
        self.spec.fingerprint
    }

    fn geometry(&self) -> &KvGeometry {
        &self.spec.geometry
    }

    fn writer(&self, document_id: &str, metadata: BTreeMap<String, String>) -> Result<Box<dyn DocumentWriter>> {
        let place = Place::take(&self.store.busy, (self.tenant.clone(), self.name.clone(), document_id.to_owned()))?;
        let store = self.service()?;
        let start = v1::AppendStart {
            memory: self.name.clone(),
            document_id: document_id.to_owned(),
            fingerprint: self.spec.fingerprint.to_hex(),
            metadata: metadata.into_iter().collect(),
            ..Default::default()
        };
        Ok(Box::new(RemoteWriter::open(store, Arc::clone(&self.store.driver), self.store.retry, start, place)?))
    }

    fn document_chunks(&self, id: &str, from_ordinal: u64, limit: usize) -> Result<Vec<ChunkInfo>> {
        let store = self.service()?;
        let mut chunks = Vec::new();
        while chunks.len() < limit {
            let page = (limit - chunks.len()).min(PAGE_CHUNKS);
            let read = || {
                let mut store = store.clone();
                let request = v1::ReadDocumentRequest {
                    memory: self.name.clone(),
                    document_id: id.to_owned(),
                    from_ordinal: from_ordinal + chunks.len() as u64,
                    limit: page as u32,
                };
                async move { store.read_document(request).await.map(tonic::Response::into_inner) }
            };
            let found = self.store.retry.ask(&self.store.driver, read).map_err(remote)?.chunks;
            let last = found.len() < page;
            let texts = found.into_iter().map(wire::received_text).collect::<Result<Vec<_>, Status>>();
            chunks.extend(texts.map_err(remote)?);
            if last {
                break;
            }
        }
        Ok(chunks)
    }

    fn check_room(&self, document_id: &str) -> Result<()> {
        let store = self.service()?;
        let open = || {
            let mut store = store.clone();
            let (memory, document_id) = (self.name.clone(), document_id.to_owned());
            async move { store.open_document(v1::OpenDocumentRequest { memory, document_id, needs_room: true }).await }
        };
        self.store.retry.ask(&self.store.driver, open).map_err(remote).map(|_| ())
    }

    fn view(&self) -> Result<Arc<dyn Recall>> {
        self.store.view(&self.tenant, std::slice::from_ref(&self.name), None, None)
    }
}

/// Tenant, memory, document.
type DocumentKey = (String, String, String);

/// Documents with a living writer.
type Busy = Arc<Mutex<HashSet<DocumentKey>>>;

/// The place of the one writer that a document may have in this process.
struct Place {
    busy: Busy,
    document: DocumentKey,
}

impl Place {
    fn take(busy: &Busy, document: DocumentKey) -> Result<Self> {
        let mut taken = busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.insert(document.clone()) {
            return Err(mnemon_memory_store::Error::DocumentBusy { document: document.2 }.into());
        }
        Ok(Self { busy: Arc::clone(busy), document })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.document);
    }
}
