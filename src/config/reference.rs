//! The reference page of all settings, `docs/configuration.md`, generated from [`KEYS`] and the defaults.

use std::fmt::Write;

use toml::Value;

use super::Config;
use super::keys::{KEYS, Key};

const INTRODUCTION: &str = "\
# Configuration

Every setting has a default, so no configuration file is needed. Settings are read from these sources, later ones
override earlier ones:

1. the defaults below,
2. a TOML file: `jan-server serve --config FILE` (or `JAN_SERVER_CONFIG=FILE`),
3. environment variables: `JAN_SERVER__SECTION__KEY`, e.g. `JAN_SERVER__HTTP__LISTEN=0.0.0.0:8080`; a list is
   written as TOML (`[\"a\", \"b\"]`) or with commas (`a,b`), `JAN_SERVER__MODELS` as
   `[{id = \"a\", path = \"a.gguf\"}]`,
4. flags: `--listen`, `--data-dir`, `--model ID=PATH` (adds a model), `--log-format`, `--log-level`.

An unknown key is an error that names the closest known one; an invalid value is an error that names the source and
the allowed values. `jan-server config` accepts the same flags and prints the settings in effect, with secrets masked,
in the format of a configuration file. Paths are relative to the server's working directory.

```toml
[http]
listen = \"0.0.0.0:8080\"

[[models]]
id = \"smollm2\"
path = \"/models/SmolLM2-135M-Instruct.Q4_1.gguf\"

[[models]]
id = \"qwen3-32b\"
backend = \"upstream\"

[[models.upstreams]]
url = \"http://gpu1:8000/v1\"
model = \"Qwen/Qwen3-32B\"
```

This page is printed by `jan-server config --reference`.
";

/// Returns the page in Markdown.
#[must_use]
pub fn markdown() -> String {
    let defaults = Value::try_from(Config::default()).expect("the defaults serialize");
    // A model's optional keys have defaults as well, which a model that sets only the required ones shows.
    let model: jan_actors::config::ModelConfig =
        toml::from_str("id = \"\"\npath = \"\"").expect("id and path are all that a model needs");
    let model = Value::try_from(model).expect("a model serializes");
    let upstream: jan_actors::config::Upstream =
        toml::from_str("url = \"\"").expect("a URL is all that an upstream needs");
    let upstream = Value::try_from(upstream).expect("an upstream serializes");
    let mut page = INTRODUCTION.to_owned();
    let mut section = "";
    for key in KEYS.iter() {
        let (this, name) = key.path.rsplit_once('.').expect("every key lies in a section");
        if this != section {
            section = this;
            let heading = match this.strip_suffix("[]") {
                Some(list) => format!("[[{}]]", list.replace("[]", "")),
                None => format!("[{this}]"),
            };
            let _ = write!(
                page,
                "\n## `{heading}`\n\n| key | default | unit | allowed | meaning |\n|---|---|---|---|---|\n"
            );
        }
        let default = match this {
            "models[]" => model.get(name),
            "models[].upstreams[]" => upstream.get(name),
            _ => key.path.split('.').try_fold(&defaults, |value, name| value.get(name)),
        };
        let _ = writeln!(
            page,
            "| `{name}` | {} | {} | {} | {} |",
            shown_default(key, default),
            key.kind.unit(),
            key.kind.allowed(),
            key.doc
        );
    }
    page
}

fn shown_default(key: &Key, default: Option<&Value>) -> String {
    match default {
        _ if key.required => "required".to_owned(),
        None => "unset".to_owned(),
        Some(value) => format!("`{value}`"),
    }
}
