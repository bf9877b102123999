//! The server's side of one worker: starts the process, shakes hands, passes messages, watches for silence.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use jan_protocol::confinement::{self, Confinement};
use jan_protocol::worker_protocol::{
    self, FromWorker, Hello, MAX_MESSAGE_BYTES, ModelSpec, PROTOCOL_VERSION, Ready, WINDOW, from_worker,
    to_worker, worker_client::WorkerClient,
};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::environment;
use super::in_flight::SharedTable;
use super::replica::Replica;
use crate::prefix_files::{Callers, PrefixFiles, WorkerChannel};

/// The interval at which silence is checked.
const WATCH: Duration = Duration::from_millis(250);

/// A new process must shake hands within this time, loaded machine included.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// The parameters of a link.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The program that is started with the argument `worker`.
    pub program: PathBuf,
    /// More arguments for it.
    pub arguments: Vec<String>,
    /// Variables of the server's environment that it gets beside those on the list ([`super::environment`]).
    pub environment: Vec<String>,
    /// The rights that it gives up before it loads the model.
    pub confinement: Confinement,
    /// The model that it is to load.
    pub model: ModelSpec,
    /// The prefix cache on disk.
    pub prefixes: PrefixFiles,
    /// Longest time for that.
    pub load_timeout: Duration,
    /// Longest silence while it owes a step.
    pub step_timeout: Duration,
}

/// The way in which a link ended.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkEnd {
    /// The worker could not load its model, or is of another version: trying again at once is no use.
    Refused(String),
    /// The process asked to be replaced.
    Retired(String),
    /// The process died, hung or could not be started.
    Died(String),
}

/// Runs one worker from its start to its end. `on_ready` is called once, when the model is loaded and before
/// any request is handed over. Dropping the future kills the process.
pub async fn run(config: &LinkConfig, replica: &Replica, on_ready: impl FnOnce(Ready)) -> LinkEnd {
    let (mut child, connection, channel) = match start(config, &replica.table) {
        Ok(started) => started,
        Err(error) => {
            return LinkEnd::Died(format!("cannot start {}: {error}", config.program.display()));
        }
    };
    let pid = child.id().unwrap_or_default();
    tracing::info!(model = config.model.id, pid, "worker started");
    let end = converse(config, connection, replica, on_ready).await;
    // The process is of no more use, for any reason: it dies before its requests go elsewhere.
    let exited = child.try_wait().ok().flatten();
    let _ = child.start_kill();
    let status = child.wait().await;
    channel.end(matches!(end, LinkEnd::Died(_)));
    match end {
        LinkEnd::Refused(_) | LinkEnd::Retired(_) => end,
        LinkEnd::Died(reason) => {
            let status = exited.map(Ok).unwrap_or(status);
            LinkEnd::Died(match status {
                Ok(status) => format!("{reason} ({status})"),
                Err(_) => reason,
            })
        }
    }
}

fn start(config: &LinkConfig, table: &SharedTable) -> std::io::Result<(Child, UnixStream, WorkerChannel)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(&config.program);
    command.env_clear().envs(environment::passed(std::env::vars_os(), &config.environment));
    if config.model.reproducible {
        // Kernels for eight and more rows, which sum up in another order than those for fewer.
        command.env("GGML_CPU_TILED_MM", "0");
    }
    let (channel, for_prefixes) = config.prefixes.connect(&config.model.path, callers(config, table));
    let child = command
        .arg("worker")
        .args(&config.arguments)
        .env(confinement::VARIABLE, config.confinement.to_json())
        // ggml would start a debugger on itself and make a crash last seconds.
        .env("GGML_NO_BACKTRACE", "1")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(for_prefixes.map_or_else(Stdio::null, Stdio::from))
        // A Ctrl-C in the terminal is for the server, which lets its workers finish.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, UnixStream::from_std(ours)?, channel))
}

/// The tenants whose prefixes a worker may have: those whose requests it was given, or the one of all callers where they share.
fn callers(config: &LinkConfig, table: &SharedTable) -> Callers {
    let (share_all, table) = (config.model.share_all, table.clone());
    Arc::new(move |tenant| match share_all {
        true => tenant.is_empty().then(String::new),
        false => table.lock().caller(tenant),
    })
}

async fn connect(connection: UnixStream) -> Result<WorkerClient<Channel>, tonic::transport::Error> {
    let mut connection = Some(connection);
    let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let connection = connection.take();
        async move { connection.map(TokioIo::new).ok_or_else(|| std::io::Error::other("the worker has gone")) }
    });
    let channel = Endpoint::from_static("http://worker")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(connector)
        .await?;
    Ok(WorkerClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

async fn converse(
    config: &LinkConfig,
    connection: UnixStream,
    replica: &Replica,
    on_ready: impl FnOnce(Ready),
) -> LinkEnd {
    let table = &replica.table;
    let (to_worker, outgoing) = mpsc::unbounded_channel();
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        model: Some(config.model.clone()),
    };
    let _ = to_worker.send(worker_protocol::to_worker(to_worker::Message::Hello(hello)));
    let handshake = async {
        let died = |reason: &str| LinkEnd::Died(format!("handshake failed: {reason}"));
        let mut client = connect(connection).await.map_err(|error| died(&error.to_string()))?;
        client.serve(UnboundedReceiverStream::new(outgoing)).await.map_err(|status| match status.code() {
            tonic::Code::FailedPrecondition => LinkEnd::Refused(status.message().to_owned()),
            _ => died(status.message()),
        })
    };
    let mut incoming = match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(end)) => return end,
        Err(_) => return LinkEnd::Died("no handshake in time".to_owned()),
    };
    match tokio::time::timeout(config.load_timeout, await_ready(&mut incoming)).await {
        Ok(Ok(ready)) => on_ready(ready),
        Ok(Err(end)) => return end,
        Err(_) => {
            return LinkEnd::Refused(format!("the model did not load within {:?}", config.load_timeout));
        }
    }
    table.lock().attach(to_worker, Instant::now());
    let mut watch = tokio::time::interval(WATCH);
    loop {
        tokio::select! {
            message = incoming.next() => match message {
                Some(Ok(FromWorker { message: Some(from_worker::Message::Step(step)) })) => {
                    table.lock().route(step, Instant::now());
                }
                Some(Ok(FromWorker { message: Some(from_worker::Message::Inspected(inspected)) })) => {
                    table.lock().answer(inspected);
                }
                Some(Ok(FromWorker { message: Some(from_worker::Message::Kept(kept)) })) => {
                    tracing::info!(model = config.model.id, prefixes = kept.prefixes, "prefixes kept on disk");
                    table.lock().kept();
                }
                Some(Ok(FromWorker { message: Some(from_worker::Message::Memory(memory)) })) => {
                    replica.set_memory(memory.into());
                }
                Some(Ok(FromWorker { message: Some(from_worker::Message::Retired(retired)) })) => {
                    return LinkEnd::Retired(retired.reason);
                }
                Some(Ok(_)) => {}
                Some(Err(status)) => return LinkEnd::Died(format!("worker lost: {}", status.message())),
                None => return LinkEnd::Died("worker ended".to_owned()),
            },
            _ = watch.tick() => {
                let silence = table.lock().silent_for(Instant::now());
                if silence.is_some_and(|silence| silence > config.step_timeout) {
                    return LinkEnd::Died(format!("worker silent for {:?}", config.step_timeout));
                }
            }
        }
    }
}

/// Warns, once, of the restrictions that are missing on this machine.
fn warn_of_lacking(lacking: &[String]) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !lacking.is_empty() && !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            lacking = lacking.join("; "),
            "workers are confined less than they could be: the kernel does not have all of it; set worker.landlock, \
             worker.seccomp or worker.no_new_privs to \"off\" where that is as wanted, or to \"require\" to serve nothing then"
        );
    }
}

async fn await_ready(
    incoming: &mut (impl tokio_stream::Stream<Item = Result<FromWorker, tonic::Status>> + Unpin),
) -> Result<Ready, LinkEnd> {
    loop {
        match incoming.next().await {
            Some(Ok(FromWorker { message: Some(message) })) => match message {
                from_worker::Message::Welcome(welcome) if welcome.protocol_version != PROTOCOL_VERSION => {
                    return Err(LinkEnd::Refused(format!(
                        "the worker ({}) speaks worker protocol {}, this server {PROTOCOL_VERSION}; run the \
                         same version of both",
                        welcome.worker_version, welcome.protocol_version
                    )));
                }
                from_worker::Message::Welcome(welcome) => warn_of_lacking(&welcome.lacking),
                from_worker::Message::Ready(ready) => return Ok(ready),
                from_worker::Message::LoadFailed(failed) => return Err(LinkEnd::Refused(failed.message)),
                from_worker::Message::Step(_)
                | from_worker::Message::Memory(_)
                | from_worker::Message::Inspected(_)
                | from_worker::Message::Kept(_)
                | from_worker::Message::Retired(_) => {}
            },
            Some(Ok(FromWorker { message: None })) => {}
            Some(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                return Err(LinkEnd::Refused(status.message().to_owned()));
            }
            Some(Err(status)) => return Err(LinkEnd::Died(format!("while loading: {}", status.message()))),
            None => return Err(LinkEnd::Died("worker ended while loading".to_owned())),
        }
    }
}
