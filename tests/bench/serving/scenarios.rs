//! What is measured.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Answer, Target};
use crate::prompts::unlike;
use crate::stats::{gaps, median, milliseconds, summary};

/// The prompts of streams that run at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Prompts {
    /// Words of each user message.
    pub words: usize,
    /// Words of each system message; 0: there is none.
    pub shared_words: usize,
    /// Every how manyth stream has the same system message as the others that do; 1: all of them.
    pub share_every: usize,
}

impl Prompts {
    /// Prompts that share nothing.
    const fn of(words: usize) -> Self {
        Self { words, shared_words: 0, share_every: 1 }
    }

    /// The system message of a stream.
    fn system(&self, number: usize, shared: &str) -> Option<String> {
        let shares = number.is_multiple_of(self.share_every.max(1));
        let own = || unlike(number + 1, self.shared_words);
        (self.shared_words > 0).then(|| if shares { shared.to_owned() } else { own() })
    }
}

/// Streams of `tokens` tokens each, at several widths.
pub async fn throughput(
    target: &Target,
    widths: &[usize],
    tokens: u32,
    prompts: &Prompts,
) -> Result<Value, String> {
    let mut rows = Vec::new();
    // Not measured: the first request pays for pages and threads that no later one does.
    target.chat(None, &unlike(0, prompts.words), 16, |_| true).await?;
    for &width in widths {
        let row = one_width(target, width, tokens, prompts).await?;
        eprintln!(
            "\r{width:>3} streams: {:.1} tok/s while all run",
            row["decode_tokens_per_s"].as_f64().unwrap_or(0.0)
        );
        rows.push(row);
    }
    Ok(json!({"scenario": "throughput", "tokens": tokens, "prompt_words": prompts.words, "rows": rows}))
}

async fn one_width(target: &Target, width: usize, tokens: u32, prompts: &Prompts) -> Result<Value, String> {
    let progress = Arc::new(AtomicUsize::new(0));
    let shared = unlike(0, prompts.shared_words);
    let begin = Instant::now();
    let mut streams = JoinSet::new();
    for number in 0..width {
        let (target, progress) = (target.clone(), Arc::clone(&progress));
        let total = width * tokens as usize;
        let (system, words) = (prompts.system(number, &shared), prompts.words);
        streams.spawn(async move {
            let prompt = format!("{} Tell a long story.", unlike(number, words));
            target
                .chat(system.as_deref(), &prompt, tokens, |_| {
                    let seen = progress.fetch_add(1, Ordering::Relaxed) + 1;
                    if seen % 64 == 0 {
                        eprint!("\r{width:>3} streams: {seen}/{total} tokens");
                    }
                    true
                })
                .await
        });
    }
    let answers = all(streams).await?;
    let wall = begin.elapsed();
    let produced: u64 = answers.iter().map(|answer| answer.completion_tokens).sum();
    if produced != width as u64 * u64::from(tokens) {
        return Err(format!(
            "{produced} tokens came, not {}; is --ban complete?",
            width as u64 * u64::from(tokens)
        ));
    }
    Ok(json!({
        "streams": width,
        "tokens": produced,
        "prompt_tokens": answers.iter().map(|answer| answer.prompt_tokens).sum::<u64>(),
        "cached_tokens": answers.iter().map(|answer| answer.cached_tokens).sum::<u64>(),
        "wall_s": wall.as_secs_f64(),
        "output_tokens_per_s": produced as f64 / wall.as_secs_f64(),
        "decode_tokens_per_s": rate_while_all_run(&answers),
        "ttft": summary(answers.iter().filter_map(Answer::ttft).collect()),
        "inter_token": summary(answers.iter().flat_map(|answer| gaps(&answer.events)).collect()),
    }))
}

/// Tokens/s from the moment when the last stream has its first token to the end of the first stream: prompt
/// reading and the thinning out at the end are left out, as in llama-batched-bench's `S_TG`.
///
/// A step's tokens arrive one after the other, so the step that begins the time and the one that ends it would be cut
/// wherever the two streams come in it: half the usual gap is added on both sides, and all of the one and none of the
/// other counts.
fn rate_while_all_run(answers: &[Answer]) -> Option<f64> {
    let from = answers.iter().filter_map(|answer| answer.events.first()).max()?;
    let to = answers.iter().filter_map(|answer| answer.events.last()).min()?;
    let span = to.checked_duration_since(*from).filter(|span| !span.is_zero())?;
    let within_a_step = median(answers.iter().flat_map(|answer| gaps(&answer.events)).collect())? / 2;
    let counted = *from + within_a_step..*to + within_a_step;
    let mut tokens = 0.0;
    for answer in answers {
        // An event may hold more than one token where a character took several.
        let each = answer.completion_tokens as f64 / answer.events.len() as f64;
        tokens += each * answer.events.iter().filter(|at| counted.contains(at)).count() as f64;
    }
    Some(tokens / span.as_secs_f64())
}

/// Free text and JSON kept to a schema in turns, both at `width` streams of `tokens` tokens each.
pub async fn structured(target: &Target, width: usize, tokens: u32, turns: usize) -> Result<Value, String> {
    let bound = target.answering(people());
    let mut rates = Vec::with_capacity(turns);
    // Not measured: the schema is compiled, pages are touched.
    bound.chat(None, &unlike(0, 24), 16, |_| true).await?;
    for turn in 0..turns {
        let mut each = [0.0; 2];
        for (rate, target) in each.iter_mut().zip([target, &bound]) {
            let row = one_width(target, width, tokens, &Prompts::of(24)).await?;
            *rate = row["output_tokens_per_s"].as_f64().unwrap_or(f64::NAN);
        }
        let [free, structured] = each;
        eprintln!("\rturn {}: {free:.1} tok/s of free text, {structured:.1} in the schema", turn + 1);
        rates.push(json!({"free": free, "structured": structured, "ratio": structured / free}));
    }
    let mut ratios: Vec<f64> = rates.iter().filter_map(|rate| rate["ratio"].as_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let best = |what: &str| rates.iter().filter_map(|rate| rate[what].as_f64()).fold(0.0, f64::max);
    Ok(json!({
        "scenario": "structured",
        "streams": width,
        "tokens": tokens,
        "best_free_tokens_per_s": best("free"),
        "best_structured_tokens_per_s": best("structured"),
        "median_ratio": ratios.get(ratios.len() / 2),
        "turns": rates,
    }))
}

/// A list of people, longer than any measured answer.
fn people() -> Value {
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 24},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "occupation": {"enum": ["engineer", "teacher", "doctor", "artist", "student"]},
            "married": {"type": "boolean"},
        },
        "required": ["name", "age", "occupation", "married"],
        "additionalProperties": false,
    });
    let schema = json!({
        "type": "object",
        "properties": {"people": {"type": "array", "items": person, "minItems": 60}},
        "required": ["people"],
        "additionalProperties": false,
    });
    json!({"type": "json_schema", "json_schema": {"name": "people", "strict": true, "schema": schema}})
}

/// `clients` requests at once that share a system prompt of about `words` tokens.
pub async fn shared_prefix(
    target: &Target,
    clients: usize,
    words: usize,
    tokens: u32,
) -> Result<Value, String> {
    target.chat(None, &unlike(0, 8), 4, |_| true).await?;
    let system = Arc::new(unlike(1, words));
    let mut streams = JoinSet::new();
    for number in 0..clients {
        let (target, system) = (target.clone(), Arc::clone(&system));
        streams.spawn(async move {
            let question = format!("Question {number}: what is it about?");
            let answer = target.chat(Some(&system), &question, tokens, |_| true).await;
            eprintln!("client {number} is answered");
            answer
        });
    }
    let answers = all(streams).await?;
    let mut times: Vec<Duration> = answers.iter().filter_map(Answer::ttft).collect();
    times.sort_unstable();
    let prompt: u64 = answers.iter().map(|answer| answer.prompt_tokens).sum();
    let cached: u64 = answers.iter().map(|answer| answer.cached_tokens).sum();
    Ok(json!({
        "scenario": "shared-prefix",
        "clients": clients,
        "prompt_tokens_each": prompt / clients.max(1) as u64,
        "prompt_tokens_read": prompt - cached,
        "cached_tokens": answers.iter().map(|answer| answer.cached_tokens).collect::<Vec<_>>(),
        "ttft_ms": times.iter().copied().map(milliseconds).collect::<Vec<_>>(),
        "slowest_ttft_ms": times.last().copied().map(milliseconds),
    }))
}

/// `streams` steady streams; once all of them run, a new long prompt a second, `prompts` times.
pub async fn interference(
    target: &Target,
    streams: usize,
    words: usize,
    prompts: usize,
    patience_s: u64,
) -> Result<Value, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let running = Arc::new(AtomicUsize::new(0));
    let mut steady = JoinSet::new();
    for number in 0..streams {
        let (target, stop, running) = (target.clone(), Arc::clone(&stop), Arc::clone(&running));
        steady.spawn(async move {
            let mut first = true;
            let prompt = format!("{} Tell a long story.", unlike(number, 8));
            target
                .chat(None, &prompt, 7000, |_| {
                    running.fetch_add(usize::from(std::mem::take(&mut first)), Ordering::Relaxed);
                    !stop.load(Ordering::Relaxed)
                })
                .await
        });
    }
    while running.load(Ordering::Relaxed) < streams {
        if let Some(ended) = steady.try_join_next() {
            let answer = ended.map_err(|error| error.to_string())??;
            return Err(format!("a steady stream ended after {} tokens", answer.completion_tokens));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A few seconds without company, for comparison.
    tokio::time::sleep(Duration::from_secs(3)).await;

    let begin = Instant::now();
    let mut long = JoinSet::new();
    for number in 0..prompts {
        let due = begin + Duration::from_secs(number as u64);
        tokio::time::sleep_until(due.into()).await;
        eprintln!("long prompt {} of {prompts} goes out", number + 1);
        let target = target.clone();
        long.spawn(async move { target.chat(None, &unlike(100 + number, words), 4, |_| true).await });
    }
    let deadline = begin + Duration::from_secs(patience_s);
    let mut finished = Vec::new();
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline.into(), long.join_next()).await {
        finished.push(answer.map_err(|error| error.to_string())??);
        eprintln!("{} of {prompts} long prompts are done after {:.1?}", finished.len(), begin.elapsed());
    }
    let end = Instant::now();
    stop.store(true, Ordering::Relaxed);
    let steady = all(steady).await?;

    // A stall counts where it ends. Each stream was stopped by its first token after `end`, so that a stall
    // that lasted until then is in as well.
    let inside = |from: Instant, to: Option<Instant>| {
        let times = steady.iter().flat_map(|answer| {
            let within = move |at: Instant| from < at && to.is_none_or(|to| at <= to);
            answer.events.windows(2).filter(move |pair| within(pair[1])).map(|pair| pair[1] - pair[0])
        });
        summary(times.collect())
    };
    Ok(json!({
        "scenario": "interference",
        "steady_streams": streams,
        "long_prompts": prompts,
        "long_prompts_finished": finished.len(),
        "long_prompt_tokens": finished.first().map(|answer| answer.prompt_tokens),
        "long_ttft": summary(finished.iter().filter_map(Answer::ttft).collect()),
        "all_done_s": (end - begin).as_secs_f64(),
        "steady_inter_token_before": inside(begin - Duration::from_secs(3), Some(begin)),
        "steady_inter_token": inside(begin, None),
    }))
}

/// Prompts that are read one after another beside `streams` steady streams: how much of the work is done that reading alone and
/// decoding alone do in the same time.
pub async fn mixed(target: &Target, streams: usize, words: usize, prompts: usize) -> Result<Value, String> {
    /// The time of decoding alone, before the prompts and behind them: the streams grow meanwhile.
    const ALONE: Duration = Duration::from_secs(4);
    let read = async |first: usize| {
        let begin = Instant::now();
        let mut tokens = 0;
        for number in first..first + prompts {
            let answer = target.chat(None, &unlike(number, words), 1, |_| true).await?;
            tokens += answer.prompt_tokens - answer.cached_tokens;
        }
        Ok::<(u64, Duration), String>((tokens, begin.elapsed()))
    };
    // Not those of an earlier run, which may be cached.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let first = 100 + usize::try_from(now % 1_000_000).unwrap_or_default() * 2 * prompts;
    let (alone_tokens, alone_time) = read(first).await?;
    eprintln!("read {alone_tokens} tokens alone in {alone_time:.1?}");

    let stop = Arc::new(AtomicBool::new(false));
    let mut steady = JoinSet::new();
    for number in 0..streams {
        let (target, stop) = (target.clone(), Arc::clone(&stop));
        let prompt = format!("{} Tell a long story.", unlike(number, 8));
        steady
            .spawn(async move { target.chat(None, &prompt, 7000, |_| !stop.load(Ordering::Relaxed)).await });
    }
    // Until all of them run.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = Instant::now();
    tokio::time::sleep(ALONE).await;
    let begin = Instant::now();
    let (tokens, time) = read(first + prompts).await?;
    let end = Instant::now();
    eprintln!("read {tokens} tokens beside {streams} streams in {time:.1?}");
    tokio::time::sleep(ALONE).await;
    let after = Instant::now();
    stop.store(true, Ordering::Relaxed);
    let steady = all(steady).await?;

    let events = |from: Instant, to: Instant| {
        let within = |answer: &Answer| answer.events.iter().filter(|at| (from..to).contains(*at)).count();
        steady.iter().map(within).sum::<usize>() as f64
    };
    let decode_alone =
        (events(before, begin) + events(end, after)) / (begin - before + (after - end)).as_secs_f64();
    let read_alone = alone_tokens as f64 / alone_time.as_secs_f64();
    let output = events(begin, end);
    let apart_s = tokens as f64 / read_alone + output / decode_alone;
    let pauses = steady.iter().flat_map(|answer| {
        let within = move |pair: &&[Instant]| begin < pair[1] && pair[1] <= end;
        answer.events.windows(2).filter(within).map(|pair| pair[1] - pair[0])
    });
    Ok(json!({
        "scenario": "mixed",
        "streams": streams,
        "prompts": prompts,
        "read_alone_tokens_per_s": read_alone,
        "decode_alone_tokens_per_s": decode_alone,
        "read_tokens_per_s": tokens as f64 / time.as_secs_f64(),
        "decode_tokens_per_s": output / time.as_secs_f64(),
        "share_of_apart": apart_s / time.as_secs_f64(),
        "inter_token": summary(pauses.collect()),
    }))
}

/// One stream's rate, quiet and beside a busy process.
pub async fn spin(target: &Target, tokens: u32) -> Result<Value, String> {
    let rate = async |label: &str| {
        let answer =
            target.chat(None, &format!("{} Tell a long story.", unlike(0, 8)), tokens, |_| true).await?;
        let rate = rate_while_all_run(&[answer]).ok_or("the answer was too short")?;
        eprintln!("{label}: {rate:.1} tok/s");
        Ok::<f64, String>(rate)
    };
    rate("warm-up").await?;
    let quiet = rate("quiet").await?;
    let busy = {
        let _burner = Burner::start()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        rate("beside a spinning process").await?
    };
    Ok(json!({
        "scenario": "spin",
        "quiet_tokens_per_s": quiet,
        "busy_tokens_per_s": busy,
        "kept": busy / quiet,
    }))
}

/// A process of its own that keeps one core busy while it is alive.
struct Burner(Child);

impl Burner {
    fn start() -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let child =
            Command::new(program).arg("burn").stdin(Stdio::null()).spawn().map_err(|e| e.to_string())?;
        Ok(Self(child))
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Never returns, never sleeps.
pub fn burn() -> ! {
    let mut value = 1_u64;
    loop {
        value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

async fn all(mut streams: JoinSet<Result<Answer, String>>) -> Result<Vec<Answer>, String> {
    let mut answers = Vec::new();
    while let Some(answer) = streams.join_next().await {
        answers.push(answer.map_err(|error| error.to_string())??);
    }
    Ok(answers)
}
