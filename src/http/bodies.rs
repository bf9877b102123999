//! The shared state of request bodies: their limits by route, the memory that they may take together, and the threads
//! on which large ones are parsed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::ApiError;
use super::budget::{Budget, Holding};
use super::json::Elements;
use crate::auth::access;
use crate::config::HttpConfig;

/// Approximate memory of one JSON element after parsing, in bytes.
const ELEMENT_BYTES: u64 = 256;
/// Larger bodies, in bytes, are parsed on a separate thread: the thread of a connection serves many others.
const MAX_INLINE_PARSE: usize = 64 * 1024;
/// Maximum number of large bodies that are parsed concurrently.
const MAX_PARSES: usize = 2;

/// The limits of bodies and the memory in use. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Bodies {
    config: Arc<HttpConfig>,
    budget: Budget,
    parses: Arc<Semaphore>,
}

/// The limits of one route.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    pub bytes: u64,
    /// The configuration key of the limit.
    pub setting: &'static str,
    pub elements: u64,
    pub timeout: Duration,
}

impl Bodies {
    pub fn new(config: Arc<HttpConfig>) -> Self {
        // A body within the limits of its route fits into memory if its caller has no other one.
        let kinds = [access::Body::Account, access::Body::Inference, access::Body::Items];
        let largest = kinds.into_iter().map(|kind| config.body_limit(kind).0).max().unwrap_or(0);
        let largest = largest + config.body_limit_elements * ELEMENT_BYTES;
        let of_caller = (config.body_memory_per_caller_mib << 20).max(largest);
        let of_all = (config.body_memory_mib << 20).max(Budget::at_least(of_caller));
        let budget = Budget::new(of_caller, of_all);
        Self { config, budget, parses: Arc::new(Semaphore::new(MAX_PARSES)) }
    }

    pub fn limits(&self, kind: access::Body) -> BodyLimits {
        let (bytes, setting) = self.config.body_limit(kind);
        BodyLimits {
            bytes,
            setting,
            elements: self.config.body_limit_elements,
            timeout: self.config.body_timeout(),
        }
    }

    /// Returns an empty holding for the body of one of `caller`'s requests.
    pub fn holding(&self, caller: String) -> Arc<Holding> {
        Arc::new(Holding::new(self.budget.clone(), caller))
    }

    /// Runs `parse`, which parses a body of `length` bytes. Large bodies are parsed outside the runtime's own threads,
    /// and only few concurrently.
    ///
    /// # Errors
    /// 500 if it panics.
    pub async fn parse<R: Send + 'static>(
        &self,
        length: usize,
        parse: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        if length <= MAX_INLINE_PARSE {
            return Ok(parse());
        }
        let permit =
            Arc::clone(&self.parses).acquire_owned().await.map_err(|_closed| ApiError::internal())?;
        let span = tracing::Span::current();
        let parsing = tokio::task::spawn_blocking(move || {
            // A client that disconnects does not stop a running parse, so the permit stays with it.
            let _permit = permit;
            span.in_scope(parse)
        });
        parsing.await.map_err(|_panicked| ApiError::internal())
    }
}

/// Returns the memory that a body takes: its bytes and its parsed form.
pub(super) fn cost(bytes: u64, elements: Elements) -> u64 {
    bytes.saturating_add(elements.count().saturating_mul(ELEMENT_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(edit: impl FnOnce(&mut HttpConfig)) -> Bodies {
        let mut config = HttpConfig::default();
        edit(&mut config);
        Bodies::new(Arc::new(config))
    }

    #[test]
    fn each_route_has_its_limit() {
        let limit = |bodies: &Bodies, kind| {
            let limits = bodies.limits(kind);
            (limits.bytes, limits.setting)
        };
        let usual = bodies(|_| {});
        assert_eq!(limit(&usual, access::Body::Account), (1 << 20, "http.account_body_limit_bytes"));
        assert_eq!(limit(&usual, access::Body::Inference), (8 << 20, "http.inference_body_limit_bytes"));
        assert_eq!(limit(&usual, access::Body::Items), (16 << 20, "http.items_body_limit_bytes"));
        assert_eq!(limit(&usual, access::Body::Export).1, "http.import_limit_bytes");
        let large = bodies(|config| config.body_limit_bytes = Some(32 << 20));
        assert_eq!(limit(&large, access::Body::Account), (1 << 20, "http.account_body_limit_bytes"));
        assert_eq!(limit(&large, access::Body::Inference), (32 << 20, "http.body_limit_bytes"));
        assert_eq!(limit(&large, access::Body::Items), (32 << 20, "http.body_limit_bytes"));
        let small = bodies(|config| config.body_limit_bytes = Some(1000));
        for kind in [access::Body::Account, access::Body::Inference, access::Body::Items] {
            assert_eq!(limit(&small, kind), (1000, "http.body_limit_bytes"), "{kind:?}");
        }
        let both = bodies(|config| {
            config.body_limit_bytes = Some(3000);
            config.inference_body_limit_bytes = 2000;
        });
        assert_eq!(limit(&both, access::Body::Inference), (2000, "http.inference_body_limit_bytes"));
    }

    #[test]
    fn the_largest_body_has_room() {
        for bodies in [
            bodies(|_| {}),
            bodies(|config| config.body_limit_bytes = Some(1 << 30)),
            bodies(|config| (config.body_memory_mib, config.body_memory_per_caller_mib) = (1, 1)),
        ] {
            let limits = bodies.limits(access::Body::Items);
            let one = bodies.holding("a".to_owned());
            one.grow_to(limits.bytes + limits.elements * ELEMENT_BYTES).unwrap();
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn large_bodies_are_parsed_elsewhere() {
        let bodies = bodies(|_| {});
        let here = std::thread::current().id();
        let thread = || std::thread::current().id();
        assert_eq!(bodies.parse(MAX_INLINE_PARSE, thread).await.unwrap(), here);
        assert_ne!(bodies.parse(MAX_INLINE_PARSE + 1, thread).await.unwrap(), here);
        let failed = bodies.parse(MAX_INLINE_PARSE + 1, || panic!("a bug")).await;
        assert_eq!(failed.map_err(|error: ApiError| error.code()), Err::<(), _>("internal_error"));
        assert_eq!(bodies.parses.available_permits(), MAX_PARSES);
    }
}
