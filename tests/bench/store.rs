//! What keeping conversations costs: durable appends, reads as the store grows, opening it, and its size.
//!
//! `cargo bench --bench store -- [--conversations N] [--seconds N] [--samples N] [--cache-mib N] [--data-dir FOLDER]`
//!
//! Everything goes through the handle that the HTTP routes use. What the disk itself can do is measured beside it,
//! before and after. Progress goes to standard error, the figures to standard output as JSON.

#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jan_actors::System;
use jan_actors::config::{ActorsConfig, StorageConfig};
use jan_actors::conversations::{
    Anchor, ConversationId, ConversationQuery, Conversations, NewConversation, NewItem, Position, item,
};
use jan_actors::identity::UserId;
use serde_json::{Value, json};

/// So few conversations are what many are compared with.
const FEW: usize = 10;
/// How many are made at a time while the store is filled.
const FILLERS: usize = 256;
const WRITERS: [usize; 3] = [1, 16, 64];

struct Options {
    conversations: usize,
    seconds: u64,
    samples: usize,
    cache_mib: u32,
    folder: Option<PathBuf>,
}

fn main() {
    let mut options =
        Options { conversations: 1_000_000, seconds: 5, samples: 5000, cache_mib: 0, folder: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value follows the flag");
        match argument.as_str() {
            "--conversations" => options.conversations = value().parse().expect("a number"),
            "--seconds" => options.seconds = value().parse().expect("a number"),
            "--samples" => options.samples = value().parse().expect("a number"),
            "--cache-mib" => options.cache_mib = value().parse().expect("a number"),
            "--data-dir" => options.folder = Some(value().into()),
            // cargo's own.
            "--bench" => {}
            other => {
                panic!(
                    "unknown argument {other}; known: --conversations, --seconds, --samples, --cache-mib, --data-dir"
                )
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    let report = runtime.block_on(run(&options));
    println!("{}", serde_json::to_string_pretty(&report).expect("JSON has a text form"));
}

async fn start(folder: &Path, cache_mib: u32) -> System {
    let mut config = ActorsConfig::default();
    config.storage.path = folder.join("data");
    config.storage.cache_mib = cache_mib;
    // All of them are one user's here.
    config.storage.max_user_mib = 0;
    config.storage.max_user_conversations = 0;
    // One writer fills its conversation faster than people do.
    config.conversations.max_items = u32::MAX;
    config.conversations.max_bytes = u64::MAX;
    // No model: a worker would take the processor's time.
    config.worker.program = Some("/bin/false".into());
    System::start(config).await.expect("the store opens")
}

async fn run(options: &Options) -> Value {
    let temporary = match &options.folder {
        Some(_) => None,
        // Beside the build rather than in /tmp, which may lie in memory.
        None => Some(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder")),
    };
    let folder = match (&options.folder, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of them is there"),
    };
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let time = Duration::from_secs(options.seconds);

    let fsync_before = fsync_rate(&folder, time);
    progress(&format!("the disk: {fsync_before:.0} fsyncs/s"));
    let system = start(&folder, options.cache_mib).await;
    let store = system.conversations().clone();
    let member = system.identity().create_user("bench@example.com", "Bench").await.expect("a user is made");
    let user = member.id;

    let mut appends = Vec::new();
    for writers in WRITERS {
        let rate = append_rate(&store, user, writers, time).await;
        progress(&format!("{writers} writers: {rate:.0} durable appends/s"));
        appends.push((writers, rate));
    }
    let fsync_after = fsync_rate(&folder, time);
    progress(&format!("the disk: {fsync_after:.0} fsyncs/s"));

    // Another user's few, so that the appends above are not among them.
    let reader =
        system.identity().create_user("reader@example.com", "Reader").await.expect("a user is made").id;
    let mut ids = fill(&store, reader, FEW).await;
    let few = latencies(&store, reader, &ids, options.samples).await;
    progress(&format!("at {FEW} conversations: {few}"));
    ids.extend(fill(&store, reader, options.conversations.saturating_sub(FEW)).await);
    let many = latencies(&store, reader, &ids, options.samples).await;
    progress(&format!("at {} conversations: {many}", options.conversations));

    drop(store);
    system.shutdown(Duration::from_secs(10)).await;
    let begun = Instant::now();
    let system = start(&folder, options.cache_mib).await;
    let open_s = begun.elapsed().as_secs_f64();
    let first = Instant::now();
    let query = query(None);
    system.conversations().list(reader, query).await.expect("the list is read");
    let first_list_ms = first.elapsed().as_secs_f64() * 1e3;
    let after_open = latencies(system.conversations(), reader, &ids, options.samples).await;
    system.shutdown(Duration::from_secs(10)).await;
    let bytes = size(&folder);
    progress(&format!("opened in {open_s:.2} s; {} MiB on disk", bytes >> 20));

    let single = appends.first().map_or(f64::NAN, |(_, rate)| *rate);
    let ratio = |name: &str, what: &str| number(&many, name, what) / number(&few, name, what);
    json!({
        "fsyncs_per_s": {"before": fsync_before, "after": fsync_after},
        "durable_appends_per_s": appends.iter().map(|(writers, rate)| json!({
            "writers": writers, "per_s": rate, "times_one_writer": rate / single,
            "times_fsync_rate": rate / f64::midpoint(fsync_before, fsync_after),
        })).collect::<Vec<_>>(),
        "conversations": options.conversations,
        "cache_mib": StorageConfig { cache_mib: options.cache_mib, ..Default::default() }.cache_bytes() >> 20,
        "items": options.conversations,
        "latency_us": {"at_few": few, "at_many": many, "at_many_after_opening": after_open},
        "p99_many_over_few": {
            "list": ratio("list", "p99"), "list_anywhere": ratio("list_anywhere", "p99"), "get": ratio("get", "p99"),
        },
        "open_s": open_s,
        "first_list_ms": first_list_ms,
        "bytes_on_disk": bytes,
    })
}

fn number(report: &Value, name: &str, what: &str) -> f64 {
    report[name][what].as_f64().unwrap_or(f64::NAN)
}

fn progress(text: &str) {
    eprintln!("{text}");
}

/// How often a second a small write can be made durable, by one writer without any store.
fn fsync_rate(folder: &Path, time: Duration) -> f64 {
    let mut file = tempfile::tempfile_in(folder).expect("a file can be made");
    let begun = Instant::now();
    let mut count = 0u32;
    while begun.elapsed() < time {
        file.write_all(&[7; 512]).expect("the disk takes bytes");
        file.sync_all().expect("the disk syncs");
        count += 1;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

fn says(text: String) -> NewItem {
    item::check(json!({"role": "user", "content": text}), "items[0]", 1 << 20).expect("it is a message")
}

async fn append_rate(store: &Conversations, user: UserId, writers: usize, time: Duration) -> f64 {
    let ids = fill(store, user, writers).await;
    let over = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let tasks: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let (store, over) = (store.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut done = 0u32;
                while !over.load(Ordering::Relaxed) {
                    let items = vec![says(format!("message {done} of some length, as people write them"))];
                    store.append(user, id, items, Anchor::Head).await.expect("it is appended");
                    done += 1;
                }
                done
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
    let mut done = 0;
    for task in tasks {
        done += task.await.expect("a writer ends");
    }
    f64::from(done) / begun.elapsed().as_secs_f64()
}

/// Makes conversations of one message each, many at a time.
async fn fill(store: &Conversations, user: UserId, count: usize) -> Vec<ConversationId> {
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..FILLERS.min(count))
        .map(|_| {
            let (store, next) = (store.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut ids = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count as u64 {
                        return ids;
                    }
                    let items = vec![says(format!("This is the first message of conversation {number}"))];
                    let new =
                        NewConversation { items, model: Some("jan-v1-4b".to_owned()), ..Default::default() };
                    ids.push(store.create(user, new).await.expect("it is made").id);
                    if number > 0 && number.is_multiple_of(50_000) {
                        let rate = number as f64 / begun.elapsed().as_secs_f64();
                        progress(&format!("{number} of {count} conversations, {rate:.0}/s"));
                    }
                }
            })
        })
        .collect();
    let mut ids = Vec::with_capacity(count);
    for task in tasks {
        ids.extend(task.await.expect("a filler ends"));
    }
    ids
}

fn query(after: Option<Position>) -> ConversationQuery {
    ConversationQuery {
        limit: 20,
        after,
        before: None,
        newest_first: true,
        model: None,
        text: None,
        shared: false,
    }
}

/// The first page, a page somewhere in the list, and one conversation with its items, each read alone.
async fn latencies(store: &Conversations, user: UserId, ids: &[ConversationId], samples: usize) -> Value {
    let mut list = Vec::with_capacity(samples);
    let mut anywhere = Vec::with_capacity(samples);
    let mut get = Vec::with_capacity(samples);
    // A multiplicative generator: any spread will do, the same each time.
    let mut chance = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..samples {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let id = ids[usize::try_from(chance >> 33).unwrap_or(0) % ids.len()];
        let begun = Instant::now();
        store.list(user, query(None)).await.expect("the list is read");
        list.push(begun.elapsed());
        let begun = Instant::now();
        let (record, _) = store.get(user, id).await.expect("it is read");
        get.push(begun.elapsed());
        let begun = Instant::now();
        store.list(user, query(Some(record.position()))).await.expect("the list is read");
        anywhere.push(begun.elapsed());
    }
    json!({"list": summary(list), "list_anywhere": summary(anywhere), "get": summary(get)})
}

fn summary(mut times: Vec<Duration>) -> Value {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    json!({"p50": at(0.5), "p99": at(0.99)})
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
