//! The worker behind the server's seam for backends, as the server starts it: a process of its own with the bundled model.

use std::time::{Duration, Instant};

use jan_actors::config::ActorsConfig;
use jan_actors::model::catalog::Catalog;
use jan_actors::model::conformance;
use jan_actors::prefix_files::PrefixFiles;
use jan_actors::supervision::RestartPolicy;
use jan_actors::supervisor::{Supervisor, SupervisorArguments};
use jan_protocol::bundled_model;
use jan_protocol::confinement::{Restriction, VARIABLE};
use jan_protocol::types::ModelStatus;
use ractor::Actor;

/// Guard against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// The worker process of the other test, which starts this program again with this test alone; else it does nothing.
#[test]
fn worker_process() {
    if std::env::var_os(VARIABLE).is_some() {
        let _ = crate::worker::main();
        std::process::exit(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_keeps_the_contract_of_backends() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = ActorsConfig::default();
    config.storage.path = folder.path().to_owned();
    let this = ["--exact", "conformance::worker_process", "--nocapture"];
    config.worker_arguments = this.map(str::to_owned).to_vec();
    // These hold for a process with one thread, and a test has several.
    config.worker.no_new_privs = Restriction::Off;
    config.worker.landlock = Restriction::Off;
    config.worker.seccomp = Restriction::Off;
    let catalog = Catalog::new(&config, &PrefixFiles::default()).unwrap();
    let children = SupervisorArguments { children: catalog.children(), policy: RestartPolicy::default() };
    let (supervisor, ended) = Actor::spawn(None, Supervisor, children).await.unwrap();
    let backend = &*catalog.find(bundled_model::ID).unwrap().replicas[0];
    let began = Instant::now();
    while backend.condition().status != ModelStatus::Ready {
        assert!(began.elapsed() < PATIENCE, "{:?}", backend.condition());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    conformance::holds(backend).await;
    supervisor.stop(None);
    ended.await.unwrap();
}
