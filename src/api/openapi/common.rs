//! The parts of the description that all operations share, added in one place: security, the errors of every route,
//! headers, samples. Each resource describes only its own parts.

use std::collections::HashMap;

use http::Method;
use serde_json::{Map, Value, json};

use super::errors::{self, AppliesTo, ERRORS, ErrorSpec};
use super::samples::Sample;
use crate::api::inference::bounds;
use crate::api::state::Route;
use crate::auth::access::{Access, Rule};

/// The methods that a path of the description can have.
pub const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The origin in the description's absolute addresses, in place of which a request gets the one that it was sent to.
pub const EXAMPLE_ORIGIN: &str = "http://localhost:8080";

const RATE_LIMIT_HEADERS: [&str; 3] = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"];

/// Deprecated fields that refer to a schema; the attribute of a field is lost there.
const DEPRECATED: [&str; 4] = [
    "/ChatRequest/properties/function_call",
    "/Message/properties/function_call",
    "/AssistantMessage/properties/function_call",
    "/Delta/properties/function_call",
];

/// Completes the description of `routes`.
pub fn complete(document: &mut Value, routes: &[Route]) {
    fix_constants(&mut document["components"]["schemas"]);
    bounds::describe(&mut document["components"]["schemas"]);
    for field in DEPRECATED {
        if let Some(schema) = document["components"]["schemas"].pointer_mut(field) {
            schema["deprecated"] = Value::Bool(true);
        }
    }
    let schemas = document["components"]["schemas"].clone();
    for route in routes {
        let (rule, path) = (route.rule(), route.described_path());
        let operation = &mut document["paths"][&path][rule.method.as_str().to_lowercase()];
        let Some(operation) = operation.as_object_mut() else { continue };
        name_examples(operation, &path);
        operation.insert("security".to_owned(), security(rule));
        add_errors(operation, rule);
        add_headers(operation);
        explain_streams(operation);
        operation.insert("x-codeSamples".to_owned(), samples(operation, &rule.method, &path, &schemas));
    }
    let paths = document["paths"].as_object_mut().expect("a description has paths");
    add_links(paths);
    let errors = share_errors(paths);
    let components = document["components"].as_object_mut().expect("a description has components");
    components.insert("responses".to_owned(), Value::Object(errors));
    components.insert("headers".to_owned(), headers());
    components.insert("examples".to_owned(), Value::Object(errors::examples()));
    components.insert("securitySchemes".to_owned(), security_schemes());
}

/// Marks a text described as "Always `this`." as a constant. schemathesis checks responses against it.
fn fix_constants(schemas: &mut Value) {
    for schema in schemas.as_object_mut().into_iter().flat_map(Map::values_mut) {
        // A type with flattened fields is described as several parts.
        let parts = match schema.get_mut("allOf") {
            Some(Value::Array(parts)) => parts.as_mut_slice(),
            _ => std::slice::from_mut(schema),
        };
        let properties =
            parts.iter_mut().filter_map(|part| part.get_mut("properties")?.as_object_mut()).flatten();
        for (_, property) in properties {
            let description = property["description"].as_str().unwrap_or_default();
            let constant = description.strip_prefix("Always `").and_then(|rest| rest.strip_suffix("`."));
            if let Some(constant) = constant.filter(|_| property["type"] == "string") {
                property["const"] = Value::String(constant.to_owned());
            }
        }
    }
}

/// Adds links from an operation that creates an object to those that use it: from `POST /things` to everything at and
/// below `/things/{id}`.
fn add_links(paths: &mut Map<String, Value>) {
    let mut members: Vec<(String, String, String)> = Vec::new();
    for (path, item) in paths.iter() {
        let Some((collection, rest)) = path.split_once("/{") else { continue };
        let Some((name, _)) = rest.split_once('}') else { continue };
        for method in METHODS {
            if let Some(id) = item.get(method).and_then(|operation| operation["operationId"].as_str()) {
                members.push((collection.to_owned(), name.to_owned(), id.to_owned()));
            }
        }
    }
    for (path, item) in paths.iter_mut() {
        let Some(operation) = item.get_mut("post") else { continue };
        let links: Map<String, Value> = members
            .iter()
            .filter(|(collection, ..)| collection == path)
            .map(|(_, name, id)| {
                (id.clone(), json!({"operationId": id, "parameters": {name: "$response.body#/id"}}))
            })
            .collect();
        let responses = operation["responses"].as_object_mut().into_iter().flatten();
        for (_, response) in responses.filter(|(status, _)| status.starts_with('2')) {
            if !links.is_empty() && response["content"].get("application/json").is_some() {
                response["links"] = Value::Object(links.clone());
            }
        }
    }
}

/// Moves errors that several operations share to one definition: written out, they would be most of the description.
/// The first one of a status is named after the status, further ones get a number.
fn share_errors(paths: &mut Map<String, Value>) -> Map<String, Value> {
    let mut seen: Vec<(String, &mut Value)> = Vec::new();
    for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        let responses = operation.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten();
        let errors = responses.filter(|(status, _)| status.starts_with(['4', '5']));
        seen.extend(errors.map(|(status, response)| (status.clone(), response)));
    }
    let mut uses: HashMap<String, usize> = HashMap::new();
    for (_, response) in &seen {
        *uses.entry(response.to_string()).or_default() += 1;
    }
    let mut names: HashMap<String, String> = HashMap::new();
    let mut variants: HashMap<String, usize> = HashMap::new();
    let mut shared = Map::new();
    for (status, response) in seen {
        let text = response.to_string();
        if uses[&text] < 2 {
            continue;
        }
        let name = names.entry(text).or_insert_with(|| {
            let variant = variants.entry(status.clone()).and_modify(|number| *number += 1).or_insert(1);
            match variant {
                1 => format!("Error{status}"),
                number => format!("Error{status}_{number}"),
            }
        });
        let reference = json!({"$ref": format!("#/components/responses/{name}")});
        shared.insert(name.clone(), std::mem::replace(response, reference));
    }
    shared
}

fn security_schemes() -> Value {
    json!({
        "bearer": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "An access token (a JWT), or an API key.",
        },
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
        "google": {
            "type": "oauth2",
            "description": "Sign in with Google, or another configured OpenID provider. A browser is redirected to \
                `/auth/google` and returns with a code, which `POST /auth/exchange` exchanges for tokens. The \
                user's role determines their permissions.",
            "flows": {"authorizationCode": {
                "authorizationUrl": format!("{EXAMPLE_ORIGIN}/auth/google"),
                "tokenUrl": format!("{EXAMPLE_ORIGIN}/auth/exchange"),
                "refreshUrl": format!("{EXAMPLE_ORIGIN}/auth/refresh"),
                "scopes": {
                    "read": "Read", "write": "Inference, responses, conversations, the user's name",
                    "keys": "Manage keys, sessions and the account", "admin": "Administer",
                },
            }},
        },
    })
}

/// Returns the security requirement of a route, from the same declaration that the edge enforces.
fn security(rule: &Rule) -> Value {
    match rule.access {
        Access::Probe | Access::Open => json!([]),
        Access::Proof => json!([{"bearer": []}, {}]),
        Access::Anonymous(needed) => {
            json!([{"bearer": []}, {"apiKey": []}, {"google": [needed.usual().name()]}, {}])
        }
        Access::Needs(needed) => json!([{"bearer": []}, {"apiKey": []}, {"google": [needed.usual().name()]}]),
    }
}

/// Gives each path parameter an example value.
fn name_examples(operation: &mut Map<String, Value>, path: &str) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten().filter(|one| one["in"] == "path") {
        if parameter.get("example").is_some() {
            continue;
        }
        let description = parameter["description"].as_str().unwrap_or_default();
        // "The key's id, `key_…`" contains the prefix of such ids.
        let prefix = description.split_once('`').and_then(|(_, rest)| rest.split_once("…`"));
        let example = match prefix {
            Some((prefix, _)) => format!("{prefix}0197f3c2b6f97d3a8c6d2f9e1b4a5c7d"),
            None if path.contains("/models/") => "jan-v1-4b".to_owned(),
            None => "1".to_owned(),
        };
        parameter["example"] = Value::String(example);
    }
}

fn has_parameter(operation: &Map<String, Value>, place: &str) -> bool {
    let parameters = operation.get("parameters").and_then(Value::as_array);
    parameters.is_some_and(|all| all.iter().any(|one| one["in"] == place))
}

/// Returns whether an operation can return this error.
fn applies(error: &ErrorSpec, operation: &Map<String, Value>, rule: &Rule) -> bool {
    match error.applies_to {
        AppliesTo::Every => true,
        AppliesTo::Body => operation.contains_key("requestBody"),
        AppliesTo::Query => has_parameter(operation, "query"),
        AppliesTo::Id => has_parameter(operation, "path"),
        AppliesTo::Inference => rule.inference,
        AppliesTo::Tag(tag) => operation
            .get("tags")
            .and_then(Value::as_array)
            .is_some_and(|tags| tags.iter().any(|one| one == tag)),
    }
}

/// Adds the errors that any route can return, and the bodies of all errors.
fn add_errors(operation: &mut Map<String, Value>, rule: &Rule) {
    let mut common = vec![
        ("401", "The credential is missing or invalid; the code has the reason"),
        ("429", "A rate limit is reached"),
        ("500", "The server failed"),
        ("503", "The server is temporarily unable to answer"),
    ];
    let (body, query) = (operation.contains_key("requestBody"), has_parameter(operation, "query"));
    if body || query {
        common.push(("400", "The request cannot be parsed; the message names what is allowed"));
    }
    if body {
        common.push(("408", "The body did not arrive in time"));
        common.push(("413", "The body is too large"));
        common.push(("415", "The content type of the body is not JSON"));
    }
    if has_parameter(operation, "path") {
        common.push(("404", "There is nothing with this id"));
    }
    if rule.method != Method::GET {
        common.push(("507", "The disk is full"));
    }
    if matches!(rule.access, Access::Anonymous(_) | Access::Needs(_)) {
        common.push(("403", "The credential lacks a permission"));
    }
    let mut responses = operation["responses"].as_object().cloned().unwrap_or_default();
    for (status, description) in common {
        responses.entry(status).or_insert_with(|| json!({"description": description}));
    }
    for (status, response) in &mut responses {
        let Some(number) = status.parse::<u16>().ok().filter(|number| *number >= 400) else { continue };
        let fitting = ERRORS.iter().filter(|error| error.status == number && applies(error, operation, rule));
        let examples: Map<String, Value> = fitting
            .map(errors::example_name)
            .map(|name| (name.clone(), json!({"$ref": format!("#/components/examples/{name}")})))
            .collect();
        let mut content = json!({"schema": {"$ref": "#/components/schemas/ErrorResponse"}});
        if !examples.is_empty() {
            content["examples"] = Value::Object(examples);
        }
        response["content"] = json!({"application/json": content});
    }
    let mut sorted: Vec<_> = responses.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    operation.insert("responses".to_owned(), Value::Object(sorted.into_iter().collect()));
}

fn headers() -> Value {
    let integer = |least| json!({"type": "integer", "format": "int64", "minimum": least});
    json!({
        "X-Request-Id": {
            "description": "The request's id, as in the log: the client's own if it is well-formed.",
            "required": true, "schema": {"type": "string", "minLength": 1, "maxLength": 128},
            "example": "0197f3c2-b6f9-7d3a-8c6d-2f9e1b4a5c7d",
        },
        "X-RateLimit-Limit": {
            "description": "The size of the caller's bucket that is closest to empty. Absent if nothing is limited.",
            "schema": integer(0), "example": 1000,
        },
        "X-RateLimit-Remaining": {
            "description": "The remaining requests of that bucket.", "schema": integer(0), "example": 999,
        },
        "X-RateLimit-Reset": {
            "description": "The Unix second at which the bucket is full again.", "schema": integer(0), "example": 1609459200,
        },
        "Retry-After": {
            "description": "Seconds after which a retry may succeed.",
            "required": true, "schema": integer(1), "example": 5,
        },
        "WWW-Authenticate": {
            "description": "The authentication scheme to use (RFC 6750).",
            "required": true, "schema": {"type": "string"}, "example": "Bearer realm=\"jan-server\"",
        },
        "X-Ignored-Fields": {
            "description": "Unknown fields of the body that were ignored, separated by commas. Absent if there are none.",
            "schema": {"type": "string"}, "example": "temprature",
        },
        "X-Unenforced-Schema": {
            "description": "Keywords of the request's schemas that are not enforced during generation, separated by commas; finished answers are checked for them. Absent if there are none.",
            "schema": {"type": "string", "maxLength": 1000}, "example": "uniqueItems",
        },
        "X-Jan-Resume": {
            "description": "How the answer is continued if its worker or upstream fails within it: by its `tokens`, exactly; by its text (`message`), where that consists of plain text until then; or not (`none`), with an error event.",
            "schema": {"type": "string", "enum": ["tokens", "message", "none"]}, "example": "tokens",
        },
        "Location": {
            "description": "The target of the redirect.", "required": true, "schema": {"type": "string", "format": "uri-reference"},
        },
    })
}

fn add_headers(operation: &mut Map<String, Value>) {
    let with_body = operation.contains_key("requestBody");
    let constrained = ["createChatCompletion", "createCompletion", "createResponse"];
    let is_among = |ids: &[&str]| operation["operationId"].as_str().is_some_and(|id| ids.contains(&id));
    let constrained = is_among(&constrained);
    let continued = is_among(&["createChatCompletion", "createCompletion"]);
    let responses = operation["responses"].as_object_mut().expect("an operation has responses");
    for (status, response) in responses {
        let mut names = vec!["X-Request-Id"];
        names.extend(RATE_LIMIT_HEADERS);
        match status.as_str() {
            "401" => names.push("WWW-Authenticate"),
            "429" | "503" => names.push("Retry-After"),
            "200" | "201" if with_body => {
                names.push("X-Ignored-Fields");
                names.extend(constrained.then_some("X-Unenforced-Schema"));
                names.extend(continued.then_some("X-Jan-Resume"));
            }
            "301" | "302" | "303" | "307" | "308" => names.push("Location"),
            _ => {}
        }
        let mut headers = response.get("headers").and_then(Value::as_object).cloned().unwrap_or_default();
        for name in names {
            let reference = || json!({"$ref": format!("#/components/headers/{name}")});
            headers.entry(name).or_insert_with(reference);
        }
        response["headers"] = Value::Object(headers);
    }
}

/// Completes the description of streams. A resource names the content of its events; their format as server-sent
/// events, their end and their failures are the same for all. As in OpenAPI, the schema is that of one event.
fn explain_streams(operation: &mut Map<String, Value>) {
    let responses = operation["responses"].as_object_mut().expect("an operation has responses");
    for response in responses.values_mut() {
        let Some(payload) = response["content"].get("text/event-stream").map(|media| media["schema"].clone())
        else {
            continue;
        };
        response["content"]["text/event-stream"]["schema"] = json!({
            "type": "object",
            "description": "One server-sent event.",
            "required": ["data"],
            "properties": {
                "event": {"type": "string", "description": "The event's name, if it has one."},
                "data": {
                    "description": "One JSON object; `[DONE]` at the end.",
                    "anyOf": [
                        {"type": "string", "const": "[DONE]"},
                        {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"anyOf": [payload, {"$ref": "#/components/schemas/ErrorResponse"}]},
                        },
                    ],
                },
            },
        });
        let description = response["description"].as_str().unwrap_or_default();
        response["description"] = Value::String(format!(
            "{description}. As `text/event-stream`: server-sent events, each `data:` line with one object or, should \
             the answer fail after it has begun, an `ErrorResponse`; the last line is `data: [DONE]`. Lines that \
             begin with `:` are comments.\n\n```\ndata: {{…}}\n\ndata: {{…}}\n\ndata: [DONE]\n```"
        ));
    }
}

fn samples(operation: &Map<String, Value>, method: &Method, path: &str, schemas: &Value) -> Value {
    let mut filled = path.to_owned();
    let parameters = operation.get("parameters").and_then(Value::as_array);
    for parameter in parameters.into_iter().flatten().filter(|one| one["in"] == "path") {
        let name = format!("{{{}}}", parameter["name"].as_str().unwrap_or_default());
        filled = filled.replace(&name, parameter["example"].as_str().unwrap_or_default());
    }
    let media = operation.get("requestBody").map(|body| &body["content"]["application/json"]);
    let body = media.and_then(|media| example_of(media, schemas));
    let types = operation.get("requestBody").and_then(|body| body["content"].as_object());
    let file = types.and_then(|types| types.keys().next()).filter(|kind| *kind != "application/json");
    let success = |status: &str| status.starts_with('2');
    let responses = operation["responses"].as_object();
    let json_answer = responses
        .into_iter()
        .flatten()
        .any(|(status, response)| success(status) && response["content"].get("application/json").is_some());
    let with_key = operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty());
    Sample {
        method: method.as_str(),
        path: filled,
        with_key,
        body,
        file: file.map(String::as_str),
        json_answer,
    }
    .to_value()
}

/// Returns the example of a body: its own, or that of its schema.
fn example_of<'a>(media: &'a Value, schemas: &'a Value) -> Option<&'a Value> {
    if let Some(example) = media.get("example") {
        return Some(example);
    }
    if let Some(first) = media.get("examples").and_then(Value::as_object).and_then(|all| all.values().next())
    {
        return first.get("value");
    }
    // An optional body is described as "null or this".
    let alternatives = media["schema"]["oneOf"].as_array();
    let reference = alternatives
        .into_iter()
        .flatten()
        .chain([&media["schema"]])
        .find_map(|schema| schema["$ref"].as_str())?;
    schemas[reference.rsplit('/').next()?].get("example")
}
