//! Who may call, and what each caller sees.

use mnemon_client::{Client, Code, ConnectOptions, Error, IngestMode, v1};
use mnemon_server::{Settings, Tenant, bind};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::world::*;

const ANNA: &str = "anna-0123456789abcdef";
const BERT: &str = "bert-0123456789abcdef";

fn tenants(settings: &mut Settings) {
    let tenant = |name: &str, token: &str| Tenant { name: name.into(), token: token.into(), ..Tenant::default() };
    settings.tenants = vec![tenant("anna", ANNA), tenant("bert", BERT)];
}

/// Every call there is, on a memory `m` with a document `d`; their errors.
async fn every_call(client: &Client) -> Vec<(&'static str, Error)> {
    let generate = v1::GenerateRequest { prompt: "text".into(), memory: Some(from(&["m"])), ..Default::default() };
    let generated = match client.generate(generate).await {
        Ok(mut answer) => answer.message().await.map(|_| ()),
        Err(error) => Err(error),
    };
    let ingested = |mode| ingest_as(client, "m", "d", mode, b"text");
    let results = [
        ("get_memory", client.get_memory("m").await.map(|_| ())),
        ("list_documents", client.list_documents("m").await.map(|_| ())),
        ("get_document", client.get_document("m", "d").await.map(|_| ())),
        ("create", ingested(IngestMode::Create).await.map(|_| ())),
        ("append", ingested(IngestMode::Append).await.map(|_| ())),
        ("resume", ingested(IngestMode::Resume).await.map(|_| ())),
        ("search", client.search(&["m"], "text", 5, true).await.map(|_| ())),
        ("score", client.score("text", from(&["m"])).await.map(|_| ())),
        ("generate", generated),
        ("compact_memory", client.compact_memory("m").await.map(|_| ())),
        ("delete_document", client.delete_document("m", "d").await),
        ("delete_memory", client.delete_memory("m").await),
    ];
    results.into_iter().filter_map(|(call, result)| result.err().map(|error| (call, error))).collect()
}

#[tokio::test]
async fn tenants_never_see_each_other() {
    let world = World::with(tenants).await;
    let anna = connect_as(&world.server, ANNA).await;
    let bert = connect_as(&world.server, BERT).await;
    anna.create_memory("m", "").await.unwrap();
    let text = text(30, 900);
    ingest(&anna, "m", "d", &text).await;

    assert!(bert.list_memories().await.unwrap().is_empty());
    let errors = every_call(&bert).await;
    assert_eq!(errors.len(), 12);
    for (call, error) in &errors {
        assert_eq!(error.code(), Some(Code::NotFound), "{call}: {error}");
        assert!(error.to_string().contains("memory 'm' does not exist"), "{call}: {error}");
    }

    // A name that another tenant uses is free, and stays apart.
    bert.create_memory("m", "").await.unwrap();
    ingest(&bert, "m", "other", "something else entirely").await;
    let hits = bert.search(&["m"], &text[..40], 1000, true).await.unwrap();
    assert!(hits.iter().all(|hit| hit.chunk.as_ref().unwrap().document_id == "other"));
    bert.delete_memory("m").await.unwrap();
    assert_eq!(anna.get_memory("m").await.unwrap().documents, 1);
    assert!(anna.get_document("m", "d").await.unwrap().complete);
}

#[tokio::test]
async fn credentials_are_needed_for_every_call() {
    let world = World::with(tenants).await;
    let wrong = connect_as(&world.server, "wrong-0123456789abcdef").await;
    for (client, part) in [(&world.client, "a token is needed"), (&wrong, "the token is not known")] {
        let mut errors = every_call(client).await;
        assert_eq!(errors.len(), 12);
        errors.push(("create_memory", client.create_memory("m", "").await.unwrap_err()));
        errors.push(("list_memories", client.list_memories().await.unwrap_err()));
        errors.push(("model", client.model().await.unwrap_err()));
        for (call, error) in &errors {
            assert_eq!(error.code(), Some(Code::Unauthenticated), "{call}: {error}");
            assert!(error.to_string().contains(part), "{call}: {error}");
        }
    }
    // Probes need none.
    let mut health = HealthClient::new(channel(&world.server).await);
    health.check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn others_are_not_served_without_protection() {
    let data = tempfile::tempdir().unwrap();
    let remote = |change: &dyn Fn(&mut Settings)| {
        let mut settings = Settings { listen: "0.0.0.0:0".parse().unwrap(), ..settings(data.path()) };
        change(&mut settings);
        settings
    };
    let refused = mnemon_server::Embedded::start(remote(&|_| {})).await.unwrap_err();
    assert!(refused.to_string().contains("allow_insecure_remote"), "{refused}");
    let refused = mnemon_server::Embedded::start(remote(&tenants)).await.unwrap_err();
    assert!(refused.to_string().contains("TLS"), "{refused}");

    // The listener counts, too.
    let listener = bind(&remote(&|_| {})).await.unwrap();
    let server = mnemon_server::Server::with_parts(settings(data.path()), faulty(), crate::model::shared()).await;
    let refused = server.unwrap().serve(listener, std::future::pending()).await.unwrap_err();
    assert!(refused.to_string().contains("refusing to listen"), "{refused}");

    let open = serve_storage(remote(&|settings| settings.allow_insecure_remote = true), faulty()).await;
    let endpoint = format!("http://127.0.0.1:{}", open.address().port());
    let client = Client::connect(ConnectOptions { endpoint, ..ConnectOptions::default() }).await.unwrap();
    client.create_memory("m", "").await.unwrap();
    open.stop().await.unwrap();
}

#[tokio::test]
async fn tls_protects_the_connection() {
    let files = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let data = tempfile::tempdir().unwrap();
    let mut settings = settings(data.path());
    tenants(&mut settings);
    settings.tls = Some(mnemon_server::Tls { cert: files.join("server.pem"), key: files.join("server.key") });
    let server = serve(settings.clone()).await;
    let options = |ca: Option<&str>, scheme: &str| ConnectOptions {
        endpoint: format!("{scheme}://localhost:{}", server.address().port()),
        token: Some(ANNA.into()),
        tls_ca: ca.map(|name| files.join(name)),
        ..ConnectOptions::default()
    };
    let client = Client::connect(options(Some("ca.pem"), "https")).await.unwrap();
    client.create_memory("m", "").await.unwrap();
    assert!(Client::connect(options(Some("other-ca.pem"), "https")).await.is_err(), "a stranger's certificate");
    let missing = Client::connect(options(None, "https")).await.unwrap_err();
    assert!(missing.to_string().contains("certificate authority"), "{missing}");
    server.stop().await.unwrap();

    settings.tls = Some(mnemon_server::Tls { cert: files.join("none.pem"), key: files.join("server.key") });
    settings.data = data.path().join("other");
    let listener = bind(&settings).await.unwrap();
    let server = mnemon_server::Server::with_parts(settings, faulty(), crate::model::shared()).await.unwrap();
    let refused = server.serve(listener, std::future::pending()).await.unwrap_err();
    assert!(refused.to_string().contains("none.pem"), "{refused}");
}
