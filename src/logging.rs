//! Logs: human-readable lines or JSON on standard error, and panics as log events.

mod json_lines;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::json_lines::JsonLines;
use crate::config::{LogConfig, LogFormat};

/// Starts logging for this process. Further calls have no effect.
pub fn init(config: &LogConfig) {
    let terminal = std::io::stderr().is_terminal();
    let filter = EnvFilter::builder().parse_lossy(&config.level);
    let registry = tracing_subscriber::registry().with(filter);
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    // An error means that logging has already been started.
    let _ = if json {
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonLines)
            .event_format(JsonLines)
            .with_writer(std::io::stderr);
        registry.with(layer).try_init()
    } else {
        let layer = tracing_subscriber::fmt::layer().with_ansi(terminal).with_writer(std::io::stderr);
        registry.with(layer).try_init()
    };
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let message = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        // The message of a slice outside a character boundary contains the whole text, which may be a request's.
        let message = message.split(" of `").next().unwrap_or_default();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(message, place, "panic");
    }));
}
