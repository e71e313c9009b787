//! Memories and documents.

use mnemon_proto::v1;
use tonic::Request;

use crate::connect::Client;
use crate::error::Result;

/// Items asked for in one page when a whole list is wanted.
const PAGE: u32 = 500;

impl Client {
    /// Creates an empty memory bound to the model being served.
    pub async fn create_memory(&self, name: &str, description: &str) -> Result<v1::Memory> {
        let (name, description) = (name.into(), description.into());
        self.create_memory_with(v1::CreateMemoryRequest { name, description, ..Default::default() }).await
    }

    /// As [`create_memory`](Self::create_memory), with times to live and quotas.
    pub async fn create_memory_with(&self, message: v1::CreateMemoryRequest) -> Result<v1::Memory> {
        Ok(self.memories.clone().create_memory(self.timed(message)).await?.into_inner())
    }

    /// Changes how long a memory and its documents live, and how much it may hold: what is absent stays, 0 takes a limit
    /// away.
    pub async fn update_memory(&self, message: v1::UpdateMemoryRequest) -> Result<v1::Memory> {
        Ok(self.memories.clone().update_memory(self.timed(message)).await?.into_inner())
    }

    /// Describes a memory.
    pub async fn get_memory(&self, name: &str) -> Result<v1::Memory> {
        let message = v1::GetMemoryRequest { name: name.into() };
        Ok(self.memories.clone().get_memory(self.timed(message)).await?.into_inner())
    }

    /// All memories of the caller, by name; follows the pages.
    pub async fn list_memories(&self) -> Result<Vec<v1::Memory>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let mut page = self.list_memories_page(PAGE, &page_token).await?;
            all.append(&mut page.memories);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
    }

    /// One page of memories; an empty `page_token` asks for the first.
    pub async fn list_memories_page(&self, page_size: u32, page_token: &str) -> Result<v1::ListMemoriesResponse> {
        let message = v1::ListMemoriesRequest { page_size, page_token: page_token.into() };
        Ok(self.memories.clone().list_memories(self.timed(message)).await?.into_inner())
    }

    /// Deletes a memory and everything in it.
    pub async fn delete_memory(&self, name: &str) -> Result<()> {
        let message = v1::DeleteMemoryRequest { name: name.into() };
        self.memories.clone().delete_memory(self.timed(message)).await?;
        Ok(())
    }

    /// Gives back what was deleted from a memory, or from all of the caller's if `name` is empty. Waits as long as it
    /// takes.
    pub async fn compact_memory(&self, name: &str) -> Result<v1::CompactMemoryResponse> {
        let message = v1::CompactMemoryRequest { name: name.into() };
        Ok(self.memories.clone().compact_memory(message).await?.into_inner())
    }

    /// All documents of a memory, by identifier; follows the pages.
    pub async fn list_documents(&self, memory: &str) -> Result<Vec<v1::Document>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let mut page = self.list_documents_page(memory, PAGE, &page_token).await?;
            all.append(&mut page.documents);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
    }

    /// One page of documents; an empty `page_token` asks for the first.
    pub async fn list_documents_page(
        &self,
        memory: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<v1::ListDocumentsResponse> {
        let message = v1::ListDocumentsRequest { memory: memory.into(), page_size, page_token: page_token.into() };
        Ok(self.memories.clone().list_documents(self.timed(message)).await?.into_inner())
    }

    /// Describes a document.
    pub async fn get_document(&self, memory: &str, document_id: &str) -> Result<v1::Document> {
        let message = v1::GetDocumentRequest { memory: memory.into(), document_id: document_id.into() };
        Ok(self.memories.clone().get_document(self.timed(message)).await?.into_inner())
    }

    /// All chunks of a document in its order, with their tokens and text; follows the pages. What is appended meanwhile may be
    /// missing.
    pub async fn read_document(&self, memory: &str, document_id: &str) -> Result<Vec<v1::ChunkText>> {
        let mut all = Vec::new();
        loop {
            let message = v1::ReadDocumentRequest {
                memory: memory.into(),
                document_id: document_id.into(),
                from_ordinal: all.len() as u64,
                limit: PAGE,
            };
            let page = self.chunk_store().read_document(self.timed(message)).await?.into_inner().chunks;
            let is_last = page.len() < PAGE as usize;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Deletes a document: it is never returned again.
    pub async fn delete_document(&self, memory: &str, document_id: &str) -> Result<()> {
        let message = v1::DeleteDocumentRequest { memory: memory.into(), document_id: document_id.into() };
        self.memories.clone().delete_document(self.timed(message)).await?;
        Ok(())
    }

    /// A request that the server gives up after the client's timeout.
    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}
