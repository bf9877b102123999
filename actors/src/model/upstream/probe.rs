//! The reading of an upstream's list of models.
//!
//! Pure. A probe shows that the upstream can be reached, that it takes the key and has the model; it does not show that its engine
//! works.

use serde_json::Value;

use super::balancer::Probed;
use crate::config::UpstreamKind;

/// Maximum number of models that a problem names.
const NAMED: usize = 5;

/// Reads a list of models. `configured`: the kind that was configured; `model`: the name there.
///
/// # Errors
/// The problem, for administrators.
pub fn read(body: &[u8], model: &str, configured: UpstreamKind) -> Result<Probed, String> {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| format!("its list of models is no JSON: {error}"))?;
    let models = body["data"].as_array().ok_or("its list of models has no `data`")?;
    let found = models.iter().find(|known| known["id"] == model);
    let kind = match configured {
        UpstreamKind::Auto => kind_of(found.or(models.first()).unwrap_or(&Value::Null)),
        known => known,
    };
    let found = match found {
        Some(found) => found,
        // It serves one model, whatever it is called.
        None if kind == UpstreamKind::LlamaServer && models.len() == 1 => &models[0],
        // Proxies need not list all that they serve.
        None if configured == UpstreamKind::Openai => &Value::Null,
        None => {
            let known: Vec<&str> =
                models.iter().filter_map(|known| known["id"].as_str()).take(NAMED).collect();
            return Err(format!("it has no model `{model}`; it has {}", known.join(", ")));
        }
    };
    // Jan's own word on its workers.
    match found["status"].as_str() {
        Some("loading") => return Err(format!("it still loads the model `{model}`")),
        Some("unhealthy") => return Err(format!("its model `{model}` is unhealthy")),
        _ => {}
    }
    let numbers = [&found["max_model_len"], &found["context_length"], &found["meta"]["n_ctx"]];
    let context =
        numbers.iter().find_map(|number| number.as_u64()).and_then(|number| u32::try_from(number).ok());
    Ok(Probed { kind, context, created: found["created"].as_u64() })
}

fn kind_of(model: &Value) -> UpstreamKind {
    match model["owned_by"].as_str() {
        Some("vllm") => UpstreamKind::Vllm,
        Some("sglang") => UpstreamKind::Sglang,
        Some("llamacpp") => UpstreamKind::LlamaServer,
        _ if model.get("root").is_some()
            && model.get("context_length").is_some()
            && model.get("status").is_some() =>
        {
            UpstreamKind::Jan
        }
        _ => UpstreamKind::Openai,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn probed(models: Value, configured: UpstreamKind) -> Result<Probed, String> {
        read(json!({"object": "list", "data": models}).to_string().as_bytes(), "m", configured)
    }

    #[test]
    fn kinds_are_detected() {
        let with = |kind, context, created| Ok(Probed { kind, context, created });
        let vllm = json!([{"id": "x"}, {"id": "m", "owned_by": "vllm", "max_model_len": 4096, "created": 7}]);
        assert_eq!(probed(vllm, UpstreamKind::Auto), with(UpstreamKind::Vllm, Some(4096), Some(7)));
        let sglang = json!([{"id": "m", "owned_by": "sglang", "max_model_len": 9}]);
        assert_eq!(probed(sglang, UpstreamKind::Auto), with(UpstreamKind::Sglang, Some(9), None));
        let llama = json!([{"id": "/models/a.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 5}}]);
        assert_eq!(probed(llama, UpstreamKind::Auto), with(UpstreamKind::LlamaServer, None, None));
        let jan = |status| json!([{"id": "m", "owned_by": "me", "root": "m", "context_length": 8, "status": status}]);
        assert_eq!(probed(jan("degraded"), UpstreamKind::Auto), with(UpstreamKind::Jan, Some(8), None));
        assert!(probed(jan("loading"), UpstreamKind::Auto).unwrap_err().contains("loads"));
        assert!(probed(jan("unhealthy"), UpstreamKind::Auto).unwrap_err().contains("unhealthy"));
        let other = json!([{"id": "m", "owned_by": "system"}]);
        assert_eq!(probed(other.clone(), UpstreamKind::Auto), with(UpstreamKind::Openai, None, None));
        assert_eq!(probed(other, UpstreamKind::Vllm), with(UpstreamKind::Vllm, None, None));
    }

    #[test]
    fn a_missing_model_is_named_with_those_that_are_there() {
        let others = json!([{"id": "a", "owned_by": "vllm"}, {"id": "b"}]);
        let problem = probed(others.clone(), UpstreamKind::Auto).unwrap_err();
        assert_eq!(problem, "it has no model `m`; it has a, b");
        assert!(probed(others.clone(), UpstreamKind::Vllm).is_err());
        assert!(probed(others, UpstreamKind::Openai).is_ok(), "a proxy need not list it");
        assert!(read(b"<html>", "m", UpstreamKind::Openai).is_err());
        assert!(read(b"{}", "m", UpstreamKind::Openai).is_err());
    }
}
