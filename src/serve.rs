//! `jan-server serve`: from the settings to the exit status.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use jan_actors::System;
use jan_actors::audit::{AuditOutcome, AuditRecord, MAX_FIELDS};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{self, state::AppState};
use crate::auth::{Gate, LocalNames, OpenTo, TrustedProxies};
use crate::config::Config;
use crate::http::routing::Router;
use crate::http::{Listener, Server};

/// Time that workers have to stop after every request has ended or was cut off.
const WORKER_GRACE: Duration = Duration::from_secs(2);
/// The same time after a second signal.
const HURRIED_GRACE: Duration = Duration::from_millis(500);

/// Serves until a signal; see [`Server::drain`] for how it stops.
///
/// # Errors
/// The address cannot be listened on, or the actors do not start.
pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    raise_open_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(serve(config))?;
    // Blocking work in progress must not delay the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(code)
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    // Registered first, so that a signal during the start is not lost.
    let mut signals = Signals::new()?;
    // The address is bound first: it fails most often, and no worker has been started yet.
    let listener = Listener::bind(&config.http.listen).await?;
    let address = listener.address();
    let system = System::start(config.actors()).await?;
    let open = OpenAccess::new(&config, address);
    open.warn(&config, address);
    system.audit().record(settings_record(&config));
    announce(address, &system, open.anonymous != OpenTo::Nobody).await;
    let server = start_server(listener, &system, &config, open)?;

    let first = signals.recv().await;
    tracing::info!(signal = first.name(), "stopping: no new connections, running requests may finish");
    let code = tokio::select! {
        () = server.drain() => ExitCode::SUCCESS,
        second = signals.recv() => {
            tracing::warn!(signal = second.name(), "stopping at once");
            // The shell's convention for a process that a signal ended.
            let code = ExitCode::from(128 + second.number());
            let _ = tokio::time::timeout(HURRIED_GRACE, system.shutdown(Duration::ZERO)).await;
            return Ok(code);
        }
    };
    tokio::select! {
        () = system.shutdown(WORKER_GRACE) => {}
        _ = signals.recv() => tracing::warn!("stopping at once"),
    }
    tracing::info!("stopped");
    Ok(code)
}

/// The callers who need no credential.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenAccess {
    anonymous: OpenTo,
    guests: OpenTo,
}

impl OpenAccess {
    pub(crate) fn new(config: &Config, address: SocketAddr) -> Self {
        let exposed = !address.ip().is_loopback() || is_proxied(config);
        Self {
            anonymous: OpenTo::anonymous(config.auth.anonymous, exposed),
            guests: OpenTo::guests(config.auth.guests, exposed),
        }
    }

    /// Logs warnings about everything that needs no credential, with the callers that can reach it.
    fn warn(self, config: &Config, address: SocketAddr) {
        if let Some(to) = self.anonymous.description(address, is_proxied(config)) {
            tracing::warn!(
                to,
                "models and inference are open without a credential; auth.anonymous = \"deny\" requires one"
            );
        }
        if let Some(to) = self.guests.description(address, is_proxied(config)) {
            tracing::warn!(
                to,
                "guest accounts are open without a credential; auth.guests = \"off\" disables them"
            );
        }
    }
}

fn is_proxied(config: &Config) -> bool {
    !config.http.trusted_proxies.is_empty()
}

/// Starts the HTTP side of `system`: routes, gate and connections.
pub(crate) fn start_server(
    listener: Listener,
    system: &System,
    config: &Config,
    open: OpenAccess,
) -> anyhow::Result<Server> {
    let state = AppState::new(system, config, open.guests);
    let proxies = TrustedProxies::parse(&config.http.trusted_proxies).map_err(anyhow::Error::msg)?;
    let (identity, limiter) = (state.identity.clone(), state.limiter.clone());
    let gate = Gate::new(identity, limiter, proxies.clone(), local_names(config), open.anonymous)
        .auditing(state.audit.clone());
    let lifecycle = state.lifecycle.clone();
    let router = Router::new(api::routes(), state);
    Ok(Server::start(listener, router, Some(gate), proxies, lifecycle, config.http.clone()))
}

/// Returns the audit record of a start: the names of the settings that differ from the defaults. Their values may be
/// secrets, so they are left out.
fn settings_record(config: &Config) -> AuditRecord {
    let mut fields: Vec<_> = config.changed().into_iter().map(Into::into).collect();
    fields.truncate(MAX_FIELDS);
    AuditRecord { fields, ..AuditRecord::new("settings.load", AuditOutcome::Ok) }
}

/// Returns the names of this server according to the settings.
fn local_names(config: &Config) -> LocalNames {
    let redirect = config.auth.google.redirect_url.as_deref();
    let redirect = redirect.and_then(|url| oauth2::url::Url::parse(url).ok());
    let named = redirect.and_then(|url| url.host_str().map(str::to_owned));
    // It may be a name that this machine has for a loopback address.
    let listened = config.http.listen.rsplit_once(':').map(|(host, _)| host.to_owned());
    let hosts = config.http.allowed_hosts.iter().cloned().chain(named).chain(listened);
    LocalNames::new(hosts, &config.http.cors_allowed_origins)
}

#[derive(Clone, Copy)]
enum StopSignal {
    Terminate,
    Interrupt,
}

impl StopSignal {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Terminate => 15,
            Self::Interrupt => 2,
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn recv(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.interrupt.recv() => StopSignal::Interrupt,
        }
    }
}

/// Prints the server's address and an example request to standard output, and logs warnings about aliases.
async fn announce(address: SocketAddr, system: &System, anonymous: bool) {
    let models = system.models().list().await;
    for alias in models.iter().filter(|model| model.id != model.root) {
        tracing::warn!(
            alias = alias.id,
            root = alias.root,
            "this model id is an alias; configure a model of that id to serve real weights under it"
        );
    }
    let url = reachable_url(address);
    let model = models.first().map_or("jan-tiny", |model| model.root.as_str());
    let admin_key = system.admin_key_file();
    let path = admin_key.path.display();
    let admin = if admin_key.new {
        format!("Administrator's API key: created now, in {path}; it has all permissions")
    } else {
        format!("Administrator's API key: created at the first start, in {path}")
    };
    let (callers, credential) = match anonymous {
        true => ("need no key for models, chat and completions (auth.anonymous)", String::new()),
        false => {
            ("need an API key or a token (auth.anonymous)", format!("-H \"X-API-Key: $(cat '{path}')\" "))
        }
    };
    let text = format!(
        "Jan Server {version} listens on {url}\n\
         OpenAI base URL: {url}/v1 (also {url}/api/v1)\n\
         Interactive API reference: {url}/api/swagger/index.html (OpenAPI: {url}/api/swagger/openapi.json)\n\
         {admin}\n\
         Callers {callers}\n\
         Try it: curl {url}/v1/chat/completions {credential}-H 'Content-Type: application/json' \
         -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'\n",
        version = env!("CARGO_PKG_VERSION"),
    );
    // The server runs even if its output is closed.
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Returns a URL that works on this machine: an unspecified address is reached through loopback.
fn reachable_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

/// Raises the soft limit of open files to the hard one: each connection takes one, and many systems start a process
/// with 1024.
fn raise_open_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, current = limit.current, "cannot raise the limit of open files");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_reachable_ones() {
        assert_eq!(reachable_url("0.0.0.0:80".parse().unwrap()), "http://127.0.0.1:80");
        assert_eq!(reachable_url("[::]:80".parse().unwrap()), "http://[::1]:80");
        assert_eq!(reachable_url("10.1.2.3:80".parse().unwrap()), "http://10.1.2.3:80");
    }
}
