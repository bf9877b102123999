//! What knowing the caller costs: the same server with and without its gate, in one process, one after the other.
//!
//! Both answer `GET /api/v1/models` with an API key to wrk at 64 connections; the CPU time is that of this process
//! (the servers; wrk is another one). Beside it, the gate alone, called in a loop, and the first, a middle and the last
//! declared GET route that need a permission and no store, beside `/health`: looking up a route costs the same for all.
//!
//! `cargo bench --bench gate -- [--seconds N] [--rounds N]`; wrk is in Debian's and Ubuntu's packages.

#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Uri};
use jan_actors::System;
use jan_actors::config::RateLimitsConfig;
use jan_server::api::{self, state::AppState};
use jan_server::auth::{Gate, LocalNames, OpenTo, TrustedProxies};
use jan_server::config::Config;
use jan_server::http::routing::Router;
use jan_server::http::{Listener, Server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PATH: &str = "/api/v1/models";
const HEALTH: &str = "/health";
/// GET routes that need a permission and no store, in the order of their declaration.
const ROUTES: [&str; 3] = [PATH, "/api/v1/models/jan-tiny", "/api/v1/status"];
const CONNECTIONS: &str = "64";
/// The targets of this benchmark.
const MOST_CPU: Duration = Duration::from_micros(15);
const LEAST_RATE: f64 = 0.7;
/// Of the rate of `/health`.
const LEAST_OF_HEALTH: f64 = 0.6;

fn main() -> ExitCode {
    let (mut seconds, mut rounds): (u64, u64) = (10, 5);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number =
            || arguments.next().and_then(|text| text.parse().ok()).expect("a number follows the flag");
        match argument.as_str() {
            "--seconds" => seconds = number(),
            "--rounds" => rounds = number(),
            // cargo's own.
            "--bench" => {}
            other => panic!("unknown argument {other}; known: --seconds N, --rounds N"),
        }
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("a lower limit fits");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    if runtime.block_on(run(seconds, rounds)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(seconds: u64, rounds: u64) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = Config::default();
    config.storage.path = folder.path().join("data");
    // The limits are checked as ever, and never reached.
    config.rate_limits = RateLimitsConfig { authenticated_per_hour: u32::MAX, ..RateLimitsConfig::default() };
    config.worker.program = Some(env!("CARGO_BIN_EXE_jan-server").into());
    let system = System::start(config.actors()).await.expect("the actors start");
    let key = std::fs::read_to_string(&system.admin_key_file().path).expect("the first start writes the key");
    let key = key.trim();
    let checked = start(&system, true).await;
    let open = start(&system, false).await;

    let alone = gate_alone(&system, key);
    println!("the gate alone: median {alone:?} a request");
    let mut measured = Vec::new();
    wrk(open.0, PATH, key, 2);
    for round in 1..=rounds {
        // In turns, so that whatever else the machine does befalls both.
        let (without, with) = (wrk(open.0, PATH, key, seconds), wrk(checked.0, PATH, key, seconds));
        println!("round {round}: without {without:?}, with {with:?}");
        measured.push((without, with));
    }
    let of_both = |of: &dyn Fn(&(Run, Run)) -> f64| median(measured.iter().map(of));
    let ratio = of_both(&|(without, with)| with.rate / without.rate);
    let added = of_both(&|(without, with)| with.cpu_us - without.cpu_us);
    println!("median of {rounds} rounds: {ratio:.3} of the rate, {added:.2} µs of CPU more a request");
    let mut fine = ratio >= LEAST_RATE && added < MOST_CPU.as_micros() as f64 && alone < MOST_CPU;
    for path in ROUTES {
        let turns: Vec<(Run, Run)> = (0..rounds)
            .map(|_| (wrk(checked.0, HEALTH, key, seconds), wrk(checked.0, path, key, seconds)))
            .collect();
        let share = median(turns.iter().map(|(health, route)| route.rate / health.rate));
        println!("{path}: {share:.3} of the rate of {HEALTH}; {:?}", turns[0]);
        fine &= share >= LEAST_OF_HEALTH;
    }
    println!("{}", if fine { "within the targets" } else { "NOT within the targets" });
    checked.1.drain().await;
    open.1.drain().await;
    system.shutdown(Duration::ZERO).await;
    fine
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn start(system: &System, checked: bool) -> (SocketAddr, Server) {
    let config = Config::default();
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.address();
    let state = AppState::new(system, &config, OpenTo::Everyone);
    let gate = checked.then(|| gate(system));
    let lifecycle = state.lifecycle.clone();
    let router = Router::new(api::routes(), state);
    let proxies = TrustedProxies::default();
    (address, Server::start(listener, router, gate, proxies, lifecycle, config.http))
}

fn gate(system: &System) -> Gate {
    let (identity, limiter) = (system.identity().clone(), system.limiter().clone());
    Gate::new(identity, limiter, TrustedProxies::default(), LocalNames::default(), OpenTo::Everyone)
        .auditing(system.audit().clone())
}

/// The median time of one decision.
fn gate_alone(system: &System, key: &str) -> Duration {
    let (gate, uri) = (gate(system), Uri::from_static(PATH));
    let routes = api::routes();
    let route = routes.iter().find(|route| route.described_path() == PATH).expect("it is a route");
    let bearer = HeaderValue::from_str(&format!("Bearer {key}")).expect("keys are plain text");
    let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, bearer)]);
    let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
    let mut times: Vec<Duration> = (0..200_000)
        .map(|_| {
            let begin = Instant::now();
            let admission = gate.admit(Some(route.rule()), &uri, &headers, peer);
            let taken = begin.elapsed();
            assert!(admission.refusal.is_none(), "{:?}", admission.refusal);
            taken
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[derive(Clone, Copy)]
struct Run {
    /// Requests a second.
    rate: f64,
    /// Of this process, a request.
    cpu_us: f64,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} requests/s at {:.2} µs of CPU", self.rate, self.cpu_us)
    }
}

fn wrk(address: SocketAddr, path: &str, key: &str, seconds: u64) -> Run {
    let before = cpu_seconds();
    let output = Command::new("wrk")
        .args(["-t", "1", "-c", CONNECTIONS, "-d", &format!("{seconds}s"), "-H"])
        .arg(format!("Authorization: Bearer {key}"))
        .arg(format!("http://{address}{path}"))
        .output()
        .expect("wrk runs (apt install wrk)");
    let cpu = cpu_seconds() - before;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("Non-2xx"), "{text}");
    let number = |before: &str, after: &str| -> f64 {
        let end = text.find(after).unwrap_or_else(|| panic!("no {after:?} in {text}"));
        let start = if before.is_empty() { 0 } else { text.find(before).map_or(0, |at| at + before.len()) };
        let words = if start < end { &text[start..end] } else { &text[start..] };
        words
            .split_whitespace()
            .next_back()
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{text}"))
    };
    let requests = number("", " requests in ");
    let rate = number("Requests/sec:", "Transfer/sec:");
    Run { rate, cpu_us: cpu / requests * 1e6 }
}

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    clock.tv_sec as f64 + clock.tv_nsec as f64 / 1e9
}
