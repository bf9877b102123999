//! The worker process: serves one model over the connection on its standard input.
//!
//! The server hands over one end of a Unix socket pair as file descriptor 0. When that connection ends, for any reason, so does
//! the process: a server that was killed leaves no orphan.

mod accepted;
mod backlog;
mod context_size;
pub mod held_parts;
mod intake;
mod memory_report;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jan_protocol::confinement::Confinement;
use jan_protocol::memory;
use jan_protocol::prefix_files::Channel;
use jan_protocol::worker_protocol::{
    Accepted, FromWorker, Hello, Kept, LoadFailed, MAX_MESSAGE_BYTES, ModelSpec, PROTOCOL_VERSION, Ready,
    Retired, ToWorker, WINDOW, Welcome, from_worker, inspected_message, prepared_message, sign_of_life,
    step_message, to_worker, worker_server,
};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use self::accepted::accepted;
use self::backlog::{Backlog, Work};
use self::intake::{Intake, fill_aside};
use self::memory_report::MemoryReporter;
use crate::bundled_model;
use crate::confinement::confine;
use crate::decode::draft_model::DraftModel;
use crate::decode::engine::{Command, Engine};
use crate::embedding::Embedder;
use crate::llama::{Backend, LlamaError, Model};
use crate::prompt::prepare::Preparer;
use crate::types::EngineSettings;
use crate::vetting::{CompileLimits, VettingSettings};

/// Messages on their way to the server; the engine waits when the server does not read.
const OUTGOING: usize = 256;

/// The interval of the signs of life while prefixes are written to disk.
const SIGNS: Duration = Duration::from_millis(500);

/// Stack of the threads that compile requests' constraints: a grammar can nest as deep as it is long. Only the used part of it
/// takes memory.
const STACK: usize = 256 << 20;

/// The worker's main function. Returns only when it could not begin.
pub fn main() -> ExitCode {
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the worker cannot begin; it is started by the server, not by hand");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> std::io::Result<()> {
    // While there is one thread: the others inherit it.
    let begun = Arc::new(Begun::new());
    let socket = std::os::unix::net::UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.peer_addr()?;
    socket.set_nonblocking(true)?;
    let watched = socket.try_clone()?;
    std::thread::Builder::new().name("watch".to_owned()).spawn(move || end_with(&watched))?;
    // One thread for the protocol is enough, and leaves the cores to the engine.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let result = runtime.block_on(async {
        let connection = UnixStream::from_std(socket)?;
        let service = worker_server::WorkerServer::new(WorkerService { begun })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        // The stream of connections must not end: the server would not wait for the one it has.
        let incoming =
            tokio_stream::once(Ok::<_, std::io::Error>(connection)).chain(futures_util::stream::pending());
        tonic::transport::Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .add_service(service)
            .serve_with_incoming(incoming)
            .await
            .map_err(std::io::Error::other)
    });
    if let Err(error) = result {
        tracing::debug!(%error, "connection to the server ended");
    }
    end_process()
}

/// Waits for the other end of the connection to go away, and ends the process. The protocol alone would not do: a
/// server that dies before it opens the stream leaves nothing there that ends.
fn end_with(connection: &std::os::unix::net::UnixStream) {
    use rustix::event::{PollFd, PollFlags, poll};

    loop {
        // No event is requested; a hang-up and an error are always reported.
        let mut watched = [PollFd::new(connection, PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => {
                // Then only the protocol notices.
                tracing::error!(%error, "cannot watch the connection to the server");
                return;
            }
        }
    }
    tracing::debug!("the server has gone; the worker ends");
    end_process()
}

/// Ends the process at once: an engine thread inside llama.cpp cannot be joined, and running C++ destructors
/// beside it would crash.
fn end_process() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

/// Ends the process if the thread that has it panics: the other threads would wait for it for ever, and the server with them.
struct EndsOnPanic;

impl Drop for EndsOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end_process();
        }
    }
}

/// The results of a worker's actions before anything was sent to it.
#[derive(Debug)]
struct Begun {
    confinement: Confinement,
    /// The path of the unpacked bundled model, if it is requested.
    bundled: Result<PathBuf, String>,
    /// The features that the kernel lacks to confine it; an error if they are required.
    lacking: Result<Vec<String>, String>,
    /// The channel to the server for files of the prefix cache, until the engine has it.
    prefixes: Mutex<Option<Channel>>,
}

impl Begun {
    /// Unpacks the bundled model if that is needed, and confines the process to its model's needs.
    fn new() -> Self {
        let confinement = match Confinement::from_environment() {
            Ok(confinement) => confinement,
            Err(error) => {
                let (confinement, bundled) = (Confinement::default(), Err(error.clone()));
                return Self { confinement, bundled, lacking: Err(error), prefixes: Mutex::default() };
            }
        };
        let prefixes = Mutex::new(prefix_channel());
        let bundled = match confinement.model.as_os_str().is_empty() {
            true => bundled_model::unpack(&confinement.unpack_folder).map_err(|error| {
                let folder = confinement.unpack_folder.display();
                format!("cannot unpack the bundled model into {folder}: {error}")
            }),
            false => Err("the worker was not told that it serves the bundled model".to_owned()),
        };
        let lacking = confine(&confinement, bundled.as_ref().unwrap_or(&confinement.model));
        Self { confinement, bundled, lacking, prefixes }
    }

    /// The name of the bundled model's file, which has the hash of its contents.
    fn bundled_name(&self) -> String {
        let name = self.bundled.as_ref().ok().and_then(|path| path.file_name());
        name.unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Takes the channel for files of the prefix cache from the standard output, where the server put it, and leaves nothing there that
/// a stray line could disturb. `None`: there is none.
fn prefix_channel() -> Option<Channel> {
    let output = std::io::stdout().as_fd().try_clone_to_owned().ok()?;
    let channel = Channel::of(output).ok()?;
    let nothing = std::fs::File::options().write(true).open("/dev/null").ok()?;
    rustix::stdio::dup2_stdout(&nothing).ok()?;
    Some(channel)
}

/// The gRPC service; a worker has one stream in its life.
#[derive(Clone, Debug)]
struct WorkerService {
    begun: Arc<Begun>,
}

#[tonic::async_trait]
impl worker_server::Worker for WorkerService {
    type ServeStream = Pin<Box<dyn Stream<Item = Result<FromWorker, Status>> + Send>>;

    async fn serve(
        &self,
        request: Request<Streaming<ToWorker>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let mut incoming = request.into_inner();
        let hello = match incoming.next().await {
            Some(Ok(ToWorker { message: Some(to_worker::Message::Hello(hello)) })) => hello,
            _ => return Err(Status::invalid_argument("the first message must be Hello")),
        };
        check_version(&hello)?;
        let spec = hello.model.ok_or_else(|| Status::invalid_argument("Hello without a model"))?;
        let (outgoing, outgoing_stream) = mpsc::channel(OUTGOING);
        let (to_prepare, from_server) = std_mpsc::channel();
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            worker_version: env!("CARGO_PKG_VERSION").to_owned(),
            lacking: self.begun.lacking.clone().unwrap_or_default(),
        };
        // The channel is new and empty: there is room.
        let _ = outgoing.try_send(Ok(from_worker(from_worker::Message::Welcome(welcome))));
        let begun = Arc::clone(&self.begun);
        std::thread::Builder::new()
            .name("engine".to_owned())
            .stack_size(STACK)
            .spawn(move || work(&begun, &spec, from_server, outgoing))
            .map_err(|error| Status::internal(format!("cannot start the engine thread: {error}")))?;
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                if to_prepare.send(message).is_err() {
                    break;
                }
            }
            tracing::debug!("the server has gone; the worker ends");
            end_process();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing_stream))))
    }
}

fn check_version(hello: &Hello) -> Result<(), Status> {
    if hello.protocol_version == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this worker ({}) speaks worker protocol {PROTOCOL_VERSION}, the server ({}) speaks {}; \
         run the same version of both",
        env!("CARGO_PKG_VERSION"),
        hello.server_version,
        hello.protocol_version
    )))
}

type Outgoing = mpsc::Sender<Result<FromWorker, Status>>;

/// Loads the model and works until the server ends the connection. Runs on the engine thread.
fn work(begun: &Begun, spec: &ModelSpec, from_server: std_mpsc::Receiver<ToWorker>, outgoing: Outgoing) {
    let _ends = EndsOnPanic;
    let send = |message: FromWorker| outgoing.blocking_send(Ok(message)).is_ok();
    let fail = |message: String| {
        send(from_worker(from_worker::Message::LoadFailed(LoadFailed { message })));
        // The server closes the connection, which ends the process.
        std::thread::sleep(Duration::from_secs(10));
        end_process()
    };
    if let Err(message) = &begun.lacking {
        return fail(message.clone());
    }
    let mut loaded = match load(spec, &begun.bundled) {
        Ok(loaded) => loaded,
        Err(message) => return fail(message),
    };
    // The preparer is of use to both threads; the engine borrows the model.
    let Loaded { model, draft, preparer, settings, created } = &mut loaded;
    let (model, draft, settings) = (&*model, draft.as_ref(), &*settings);
    let engine = match Engine::new(model, draft, settings) {
        Ok(engine) => engine,
        Err(error) => return fail(error.to_string()),
    };
    if engine.is_none() {
        tracing::info!(model = spec.id, "this model makes embeddings and generates nothing");
        preparer.refuse_generation();
    }
    if model.scores_pairs() && settings.pooling.is_empty() {
        preparer.refuse_embeddings();
    }
    let life = outgoing.clone();
    preparer.vet(VettingSettings {
        program: this_program(),
        limits: CompileLimits {
            cpu: Duration::from_millis(spec.constraint_cpu_ms),
            memory_mib: spec.constraint_memory_mib,
        },
        confinement: begun.confinement.clone(),
        // If there is no room, messages are on their way, which are signs of life themselves.
        sign_of_life: Arc::new(move || drop(life.try_send(Ok(sign_of_life())))),
    });
    let preparer = &*preparer;
    let ready = Ready {
        context_length: settings.context_length,
        kv_cells: settings.kv_cells,
        vocabulary: model.vocabulary(),
        created: *created,
        architecture: model.metadata("general.architecture").unwrap_or_default(),
        name: model.metadata("general.name").unwrap_or_default(),
        bos_text: preparer.tokenizer().bos.clone(),
        eos_text: preparer.tokenizer().eos.clone(),
        chat_template: preparer.tokenizer().chat_template.clone(),
    };
    send(from_worker(from_worker::Message::Ready(ready)));
    let (to_engine, commands) = std_mpsc::channel();
    let channel = begun.prefixes.lock().unwrap_or_else(PoisonError::into_inner).take();
    let engine = match (engine, channel) {
        (Some(engine), Some(channel)) => {
            let bundled = if spec.path.is_empty() { begun.bundled_name() } else { String::new() };
            Some(engine.with_disk(channel, settings, spec.gpu_layers, &bundled, to_engine.clone()))
        }
        (engine, _) => engine,
    };
    let settled = &AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (lane, aside) = std_mpsc::channel();
        let prepare = {
            let (to_engine, outgoing) = (to_engine.clone(), &outgoing);
            move || {
                let mut intake = Intake::new(preparer, outgoing, lane, settled);
                let fill = |backlog: &mut Backlog| intake.fill(backlog, &from_server);
                prepare_loop(model, preparer, fill, &to_engine, outgoing);
            }
        };
        let compile = {
            let outgoing = &outgoing;
            move || {
                let mut taken = 0;
                let fill = |backlog: &mut Backlog| fill_aside(backlog, &aside, &mut taken, settled);
                prepare_loop(model, preparer, fill, &to_engine, outgoing);
            }
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
        let started = thread("prepare").spawn_scoped(scope, prepare);
        let started = started.and_then(|_| thread("compile").spawn_scoped(scope, compile));
        if let Err(error) = started {
            tracing::error!(%error, "cannot start the threads that prepare requests; the worker ends");
            end_process();
        }
        let report = |report| {
            let _ = outgoing.blocking_send(Ok(step_message(report)));
        };
        let mut caretaker = MemoryReporter::new(model, preparer, &outgoing, spec, settings);
        let result = match engine {
            Some(engine) => engine.run(&commands, report, &mut caretaker),
            None => Embedder::new(model, settings, false).run(&commands, report, &mut caretaker),
        };
        if let Err(LlamaError::Overrun) = result {
            let reason = LlamaError::Overrun.to_string();
            let retired = from_worker(from_worker::Message::Retired(Retired { reason }));
            let _ = outgoing.blocking_send(Ok(retired));
            // The server ends the process when it has read that.
            std::thread::sleep(Duration::from_secs(10));
        } else if let Err(error) = result {
            tracing::error!(%error, "decode failed; the worker ends and its requests are resumed in another");
        }
        // The other thread may be inside llama.cpp's tokenizer; nothing is left to tidy up.
        end_process();
    });
}

/// The running program, also where its file has been replaced meanwhile.
fn this_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    std::env::current_exe().unwrap_or_default()
}

/// Renders and tokenizes, caller by caller in turn; a cancel never overtakes its submit ([`Backlog`]). `fill` takes in arrived
/// messages, and waits if there are none; it returns `false` at the end.
fn prepare_loop(
    model: &Arc<Model>,
    preparer: &Preparer,
    mut fill: impl FnMut(&mut Backlog) -> bool,
    to_engine: &std_mpsc::Sender<Command>,
    outgoing: &Outgoing,
) {
    let _ends = EndsOnPanic;
    let mut backlog = Backlog::default();
    loop {
        if !fill(&mut backlog) {
            return;
        }
        let Some(work) = backlog.pop() else { continue };
        let command = match work {
            Work::Submit(draft) => {
                let (id, count_only) = (draft.id, draft.count_only);
                match preparer.prepare(model, *draft) {
                    Ok(prepared) => {
                        let _ = outgoing.blocking_send(Ok(prepared_message(id, Ok(accepted(&prepared)))));
                        prepared.prompt.set_told();
                        if count_only {
                            continue;
                        }
                        Command::Submit(Box::new(prepared.sequence))
                    }
                    Err(rejection) => {
                        let _ = outgoing.blocking_send(Ok(prepared_message(id, Err(rejection))));
                        continue;
                    }
                }
            }
            Work::Embed(embed) => {
                let id = embed.id;
                match embed.into_draft().and_then(|draft| preparer.embed(model, draft)) {
                    Ok(job) => {
                        let _ = outgoing.blocking_send(Ok(prepared_message(id, Ok(Accepted::default()))));
                        Command::Embed(Box::new(job))
                    }
                    Err(rejection) => {
                        let _ = outgoing.blocking_send(Ok(prepared_message(id, Err(rejection))));
                        continue;
                    }
                }
            }
            Work::Cancel(id) => Command::Cancel(id),
            Work::Keep(until) => {
                let (done, kept) = std_mpsc::channel();
                if to_engine.send(Command::Keep(until, done)).is_err() {
                    return;
                }
                // Nothing else is prepared before the end. The server waits for as long as there are signs of life.
                let prefixes = loop {
                    let _ = outgoing.blocking_send(Ok(sign_of_life()));
                    match kept.recv_timeout(SIGNS) {
                        Err(std_mpsc::RecvTimeoutError::Timeout) => {}
                        kept => break kept.unwrap_or(0),
                    }
                };
                let _ =
                    outgoing.blocking_send(Ok(from_worker(from_worker::Message::Kept(Kept { prefixes }))));
                continue;
            }
            Work::Inspect(inspect) => {
                let id = inspect.id;
                let result = inspect.into_question().and_then(|question| preparer.inspect(model, question));
                let _ = outgoing.blocking_send(Ok(inspected_message(id, result)));
                continue;
            }
        };
        if to_engine.send(command).is_err() {
            return;
        }
    }
}

/// A model ready to be run.
struct Loaded {
    model: Arc<Model>,
    draft: Option<Model>,
    preparer: Preparer,
    settings: EngineSettings,
    created: u64,
}

/// Loads the requested model, or returns its defect and the remedy.
fn load(spec: &ModelSpec, bundled: &Result<PathBuf, String>) -> Result<Loaded, String> {
    let path = if spec.path.is_empty() { bundled.clone()? } else { PathBuf::from(&spec.path) };
    let created = check_file(&path)?;
    if spec.reproducible && spec.gpu_layers > 0 {
        return Err(
            "engine.reproducible is for CPUs alone; set engine.gpu_layers to 0 or it to false".to_owned()
        );
    }
    let backend = Backend::init().map_err(|error| error.to_string())?;
    let model = Model::load(&backend, &path, spec.gpu_layers, spec.reproducible)
        .map_err(|error| format!("cannot load {}: {error}", path.display()))?;
    let draft = load_draft(spec, &backend)?;
    // llama.cpp stays initialised until the process ends.
    std::mem::forget(backend);
    let weights = model.size() + draft.as_ref().map_or(0, Model::size);
    let settings = settings(spec, &model, weights);
    check_memory(&model, draft.as_ref(), &settings)?;
    let template = (!spec.chat_template.is_empty()).then_some(spec.chat_template.as_str());
    let formats = (spec.tool_format.as_str(), spec.reasoning_format.as_str());
    let mut preparer = Preparer::new(
        &model,
        template,
        formats,
        settings.context_length,
        (spec.share_all, &spec.shared_prompts),
    )
    .map_err(|error| format!("the chat template of {} cannot be used: {error}", path.display()))?;
    if spec.refuse_overflow {
        preparer.refuse_overflow();
    }
    Ok(Loaded { model: Arc::new(model), draft, preparer, settings, created })
}

/// Loads the draft model, if there is one and drafts are wanted.
fn load_draft(spec: &ModelSpec, backend: &Backend) -> Result<Option<Model>, String> {
    if spec.draft_path.is_empty() || !spec.speculation {
        return Ok(None);
    }
    let path = Path::new(&spec.draft_path);
    let draft = check_file(path).and_then(|_| {
        Model::load(backend, path, spec.gpu_layers, spec.reproducible)
            .map_err(|error| format!("cannot load {}: {error}", path.display()))
    });
    draft.map(Some).map_err(|error| format!("draft_path: {error}"))
}

/// Checks for defects that llama.cpp would report less clearly. Returns the file's modification time in Unix seconds.
fn check_file(path: &Path) -> Result<u64, String> {
    use std::io::Read;

    let shown = path.display();
    let mut file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no file {shown}"),
        _ => format!("cannot open {shown}: {error}"),
    })?;
    let metadata = file.metadata().map_err(|error| format!("cannot read {shown}: {error}"))?;
    if metadata.is_dir() {
        return Err(format!("{shown} is a folder; name the GGUF file in it"));
    }
    let mut magic = [0; 4];
    if file.read_exact(&mut magic).is_err() || &magic != b"GGUF" {
        return Err(format!("{shown} is not a GGUF file (it does not begin with `GGUF`)"));
    }
    let modified = metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(modified.map_or(0, |d| d.as_secs()))
}

fn settings(spec: &ModelSpec, model: &Model, weights: u64) -> EngineSettings {
    let (context_length, kv_cells) = context_size::of(context_size::Facts {
        trained: model.trained_context(),
        context_length: spec.context_length,
        kv_cells: spec.kv_cells,
        bytes_per_cell: model.kv_bytes_per_cell(),
        // The pages of a mapped file count as free, and the weights need them.
        available: memory::available().map(|available| available.saturating_sub(weights)),
        workers: spec.workers,
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    EngineSettings {
        context_length,
        kv_cells,
        lane_cells: if spec.lane_cells == u32::MAX { kv_cells } else { spec.lane_cells },
        always_lanes: spec.always_lanes,
        max_sequences: u16::try_from(spec.max_sequences).unwrap_or(u16::MAX).clamp(1, 128),
        cached_sequences: u16::try_from(spec.cached_sequences).unwrap_or(u16::MAX).min(128),
        cache_cells: spec.cache_cells,
        archive_bytes: archive_bytes(spec.cache_ram_mib, kv_cells, model.kv_bytes_per_cell()),
        on_gpu: spec.gpu_layers > 0,
        threads: if spec.threads == 0 { cores } else { spec.threads as usize },
        prefill_chunk: spec.prefill_chunk.max(16),
        inter_token_target: Duration::from_millis(spec.inter_token_target_ms.max(1)),
        share_min_tokens: spec.share_min_tokens.max(1),
        pooling: spec.pooling.clone(),
        reproducible: spec.reproducible,
        speculation: spec.speculation,
        mask_budget: Duration::from_millis(spec.mask_budget_ms.max(1)),
    }
}

/// Returns the memory for copies: as much as is set, but at most half of the machine's memory that the KV cache leaves.
fn archive_bytes(mib: u32, kv_cells: u32, bytes_per_cell: u64) -> u64 {
    let kv = u64::from(kv_cells) * bytes_per_cell;
    let half = memory::available().map_or(u64::MAX, |available| available.saturating_sub(kv) / 2);
    (u64::from(mib) << 20).min(half)
}

/// Refuses a KV cache that the machine has no memory for: the kernel would kill the worker while it answers.
fn check_memory(model: &Model, draft: Option<&Model>, settings: &EngineSettings) -> Result<(), String> {
    let of_draft = draft.map_or(0, |draft| DraftModel::kv_bytes(draft, settings));
    let needed = u64::from(settings.kv_cells) * model.kv_bytes_per_cell() + of_draft;
    let Some(available) = memory::available() else { return Ok(()) };
    if needed <= available {
        return Ok(());
    }
    let mib = |bytes: u64| bytes >> 20;
    Err(format!(
        "{} KV cells{} take {} MiB and {} MiB of memory are available; lower engine.kv_cells or \
         engine.context_length",
        settings.kv_cells,
        if draft.is_some() { " and those of the draft model" } else { "" },
        mib(needed),
        mib(available)
    ))
}
