use jan_protocol::types::SamplingParams;
use serde_json::{Value, json};

use super::*;
use crate::api::responses::request::CreateResponse;
use crate::http::json::parse;

fn sampling(body: &Value) -> Result<SamplingParams, String> {
    let param = |error: ApiError| error.param().unwrap_or_default().to_owned();
    let mut body = body.clone();
    body["model"] = json!("m");
    let request = parse::<CreateResponse>(body.to_string().as_bytes(), &[]).map_err(param)?.value;
    request.sampling().map_err(param)
}

/// Formats a number as a client would.
fn written(number: f64) -> Value {
    if number.fract() == 0.0 { json!(number as i64) } else { json!(number) }
}

#[test]
fn defaults_are_openais() {
    let defaults = SamplingParams { seed: u64::MAX, ..SamplingParams::default() };
    assert_eq!(sampling(&json!({"seed": -1})).unwrap(), defaults);
    let random = || sampling(&json!({})).unwrap().seed;
    assert_ne!(random(), random());
    for (field, bounds) in CreateResponse::SAMPLING {
        assert_eq!(sampling(&json!({*field: null, "seed": -1})).unwrap(), defaults, "{field}");
        if let Some(default) = bounds.default {
            assert_eq!(
                sampling(&json!({*field: written(default), "seed": -1})).unwrap(),
                defaults,
                "{field}"
            );
        }
    }
}

#[test]
fn bounds_are_those_of_the_description() {
    for (field, bounds) in CreateResponse::SAMPLING {
        let with = |number: f64| sampling(&json!({*field: written(number)}));
        for good in [bounds.minimum, bounds.maximum, bounds.exclusive_minimum.map(|least| least + 0.01)] {
            assert!(good.is_none_or(|good| with(good).is_ok()), "{field} {good:?}");
        }
        let below = bounds.minimum.map(|least| [least - 1.0, least - 0.01]);
        let above = bounds.maximum.map(|most| [most + 1.0, most + 0.01]);
        // The last value becomes 0 as an `f32`.
        let excluded = bounds.exclusive_minimum.map(|least| [least, least + 1e-60]);
        for wrong in [below, above, excluded].into_iter().flatten().flatten() {
            assert_eq!(with(wrong), Err((*field).to_owned()), "{field} {wrong}");
        }
        for wrong in [json!("x"), json!([]), if *field == "ignore_eos" { json!(1) } else { json!(true) }] {
            assert_eq!(sampling(&json!({*field: wrong})), Err((*field).to_owned()), "{field}");
        }
    }
    let mut request = CreateResponse::default();
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        request.temperature = Some(wrong);
        assert_eq!(request.sampling().unwrap_err().param(), Some("temperature"));
        request.temperature = None;
        request.typical_p = Some(wrong);
        assert_eq!(request.sampling().unwrap_err().param(), Some("typical_p"));
        request.typical_p = None;
    }
}

#[test]
fn every_bounded_field_has_an_effect() {
    let defaults = sampling(&json!({"seed": 1})).unwrap();
    for (field, bounds) in CreateResponse::SAMPLING {
        let range = [bounds.minimum.or(bounds.exclusive_minimum), Some(bounds.maximum.unwrap_or(9.0))];
        let [Some(least), Some(most)] = range else { continue };
        let value = if matches!(*field, "top_k" | "min_tokens") { 3.0 } else { least + (most - least) * 0.3 };
        assert_ne!(sampling(&json!({*field: written(value), "seed": 1})).unwrap(), defaults, "{field}");
    }
}

#[test]
fn top_k_is_off_at_minus_one() {
    assert_eq!(sampling(&json!({"top_k": -1})).unwrap().top_k, 0);
    assert_eq!(sampling(&json!({"top_k": 7})).unwrap().top_k, 7);
    assert_eq!(sampling(&json!({"top_k": 1_u64 << 31})), Err("top_k".to_owned()));
}

#[test]
fn the_repeat_penalty_has_two_names() {
    for body in [
        json!({"repeat_penalty": 1.5}),
        json!({"repetition_penalty": 1.5}),
        json!({"repeat_penalty": 1.5, "repetition_penalty": 1.5}),
    ] {
        assert_eq!(sampling(&body).unwrap().repeat_penalty, 1.5);
    }
    let different = json!({"repeat_penalty": 1.5, "repetition_penalty": 1.0});
    assert_eq!(sampling(&different), Err("repeat_penalty".to_owned()));
}

#[test]
fn logit_biases_are_tokens_and_bounded() {
    let with = |key: &str, bias: f64| sampling(&json!({"logit_bias": {key: bias}}));
    assert_eq!(*with("42", -100.0).unwrap().logit_bias, [(42, -100.0)]);
    assert_eq!(with("42", 100.5), Err("logit_bias.42".to_owned()));
    for wrong in ["", "x", "-1", "1.5", "99999999999"] {
        assert_eq!(with(wrong, 0.0), Err("logit_bias".to_owned()), "{wrong}");
    }
}
