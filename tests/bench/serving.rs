//! Measures an OpenAI-compatible server through HTTP streaming: `cargo bench --bench serving -- --help`.
//!
//! The client shares the machine with the server that it measures, so it is made to use little of it: one
//! thread, raw sockets, and no JSON parsing except of each stream's last figures. Progress goes to standard
//! error, results as JSON to standard output.

#[path = "serving/client.rs"]
mod client;
#[path = "serving/prompts.rs"]
mod prompts;
#[path = "serving/scenarios.rs"]
mod scenarios;
#[path = "serving/stats.rs"]
mod stats;
#[path = "serving/wire.rs"]
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Benchmarks of a running OpenAI-compatible server.
#[derive(Debug, Parser)]
#[command(name = "serving")]
struct Arguments {
    /// What to measure.
    #[command(subcommand)]
    scenario: Scenario,
    /// The server, e.g. http://127.0.0.1:8080.
    #[arg(long, global = true, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The model's id in requests.
    #[arg(long, global = true, default_value = "jan-tiny")]
    model: String,
    /// Tokens that end an answer, banned by `logit_bias` so that every stream yields all its tokens.
    #[arg(long, global = true, value_delimiter = ',')]
    ban: Vec<i32>,
    /// Given by cargo; of no meaning here.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Output tokens/s, time to first token and inter-token times of some streams at a time.
    Throughput {
        /// Numbers of concurrent streams.
        #[arg(long, value_delimiter = ',', default_value = "1,4,8,16")]
        streams: Vec<usize>,
        /// Tokens of each answer.
        #[arg(long, default_value_t = 256)]
        tokens: u32,
        /// Words of each prompt, about one token each; every stream has another prompt.
        #[arg(long, default_value_t = 24)]
        prompt_words: usize,
        /// Words at the beginning of the prompt, as a system message, that streams have in common.
        #[arg(long, default_value_t = 0)]
        shared_words: usize,
        /// Every how manyth stream has the common words; the others have as many of their own.
        #[arg(long, default_value_t = 1)]
        share_every: usize,
    },
    /// Clients that arrive together with one system prompt and different questions.
    SharedPrefix {
        /// Number of clients.
        #[arg(long, default_value_t = 8)]
        clients: usize,
        /// Words of the system prompt, about one token each.
        #[arg(long, default_value_t = 1000)]
        prompt_words: usize,
        /// Tokens of each answer.
        #[arg(long, default_value_t = 16)]
        tokens: u32,
    },
    /// Steady streams while a new long prompt arrives each second.
    Interference {
        /// Number of steady streams.
        #[arg(long, default_value_t = 4)]
        streams: usize,
        /// Words of each long prompt, about one token each.
        #[arg(long, default_value_t = 1500)]
        prompt_words: usize,
        /// How many long prompts, one a second.
        #[arg(long, default_value_t = 10)]
        prompts: usize,
        /// When to give up waiting for the long prompts, in seconds from the first.
        #[arg(long, default_value_t = 240)]
        patience_s: u64,
    },
    /// Prompts that are read one after another beside steady streams, and the same apart.
    Mixed {
        /// Number of steady streams.
        #[arg(long, default_value_t = 4)]
        streams: usize,
        /// Words of each prompt, about one token each.
        #[arg(long, default_value_t = 500)]
        prompt_words: usize,
        /// How many prompts.
        #[arg(long, default_value_t = 6)]
        prompts: usize,
    },
    /// Free text and JSON kept to a schema, in turns.
    Structured {
        /// Number of concurrent streams.
        #[arg(long, default_value_t = 8)]
        streams: usize,
        /// Tokens of each answer.
        #[arg(long, default_value_t = 128)]
        tokens: u32,
        /// How often each is measured.
        #[arg(long, default_value_t = 5)]
        turns: usize,
    },
    /// One stream on a quiet machine and again beside a process that keeps one core busy.
    Spin {
        /// Tokens of each answer.
        #[arg(long, default_value_t = 256)]
        tokens: u32,
    },
    /// Keeps one core busy until killed; `spin` starts it.
    #[command(hide = true)]
    Burn,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Scenario::Burn = arguments.scenario {
        scenarios::burn();
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    let target = match client::Target::new(&arguments.url, &arguments.model, &arguments.ban) {
        Ok(target) => target,
        Err(error) => return fail(&error),
    };
    let result = runtime.block_on(async {
        match arguments.scenario {
            Scenario::Throughput { streams, tokens, prompt_words, shared_words, share_every } => {
                let prompts = scenarios::Prompts { words: prompt_words, shared_words, share_every };
                scenarios::throughput(&target, &streams, tokens, &prompts).await
            }
            Scenario::SharedPrefix { clients, prompt_words, tokens } => {
                scenarios::shared_prefix(&target, clients, prompt_words, tokens).await
            }
            Scenario::Interference { streams, prompt_words, prompts, patience_s } => {
                scenarios::interference(&target, streams, prompt_words, prompts, patience_s).await
            }
            Scenario::Mixed { streams, prompt_words, prompts } => {
                scenarios::mixed(&target, streams, prompt_words, prompts).await
            }
            Scenario::Structured { streams, tokens, turns } => {
                scenarios::structured(&target, streams, tokens, turns).await
            }
            Scenario::Spin { tokens } => scenarios::spin(&target, tokens).await,
            Scenario::Burn => unreachable!("it was run above and does not return"),
        }
    });
    match result {
        Ok(value) => {
            #[expect(clippy::print_stdout, reason = "the result is this program's output")]
            {
                println!("{value:#}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}
