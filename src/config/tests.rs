use std::io::Write;

use jan_actors::config::{GgufModel, ModelSource, UpstreamKind};
use proptest::prelude::*;

use super::keys::{KEYS, Kind};
use super::*;

fn load(file: &str, environment: &[(&str, &str)], flags: &[Override]) -> Result<Config, ConfigError> {
    let mut written = tempfile::NamedTempFile::new().unwrap();
    written.write_all(file.as_bytes()).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(written.path()), environment, flags)
}

fn refusal(file: &str, environment: &[(&str, &str)]) -> String {
    load(file, environment, &[]).unwrap_err().to_string()
}

fn listen_flag(value: &str) -> Override {
    Override::Set { key: "http.listen", value: value.into(), flag: "--listen" }
}

#[test]
fn later_layers_win() {
    let file = "[http]\nlisten = '127.0.0.1:1'\nbody_limit_bytes = 10\nkeep_alive_ms = 99\n";
    let environment =
        [("JAN_SERVER__HTTP__LISTEN", "127.0.0.1:2"), ("JAN_SERVER__HTTP__BODY_LIMIT_BYTES", "20")];
    let config = load(file, &environment, &[listen_flag("127.0.0.1:3")]).unwrap();
    assert_eq!(config.http.listen, "127.0.0.1:3");
    assert_eq!(config.http.body_limit_bytes, Some(20));
    assert_eq!(config.http.keep_alive_ms, 99);
    assert_eq!(config.http.drain_timeout_ms, HttpConfig::default().drain_timeout_ms);
}

#[test]
fn nothing_given_is_the_defaults() {
    assert_eq!(Config::load(None, [], &[]).unwrap(), Config::default());
    let other = [("PATH", "/bin"), ("JAN_SERVER_CONFIG", "x"), ("JAN_SERVERX__HTTP__LISTEN", "x")];
    assert_eq!(load("", &other, &[]).unwrap(), Config::default());
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    for (file, key, nearest) in [
        ("[http]\nlisten_adr = 'a:1'", "http.listen_adr", "http.listen"),
        ("[htpp]\nlisten = 'a:1'", "htpp", "http"),
        ("listen = 'a:1'", "listen", "http.listen"),
        ("[[models]]\nid = 'a'\npath = 'b'\nalias = []", "models[0].alias", "models[].aliases"),
    ] {
        let message = refusal(file, &[]);
        assert!(message.contains(&format!("`{key}`")), "{message}");
        assert!(message.contains(&format!("did you mean `{nearest}`?")), "{message}");
    }
    let message = refusal("", &[("JAN_SERVER__HTTP__LISTN", "a:1")]);
    assert!(message.contains("`JAN_SERVER__HTTP__LISTN`"), "{message}");
    assert!(message.contains("did you mean `JAN_SERVER__HTTP__LISTEN`?"), "{message}");
    let message = refusal("[http]\nqqqqqq = 1", &[]);
    assert!(!message.contains("did you mean"), "{message}");
}

#[test]
fn wrong_values_name_key_origin_and_what_is_allowed() {
    for (file, words) in [
        ("[http]\nlisten = 8080", ["`http.listen`", "8080 is not `host:port`", "the file "]),
        ("[http]\nlisten = 'localhost'", ["`http.listen`", "\"localhost\" is not `host:port`", "the file "]),
        ("[http]\nbody_limit_bytes = 0", ["`http.body_limit_bytes`", "an integer from 1 to", "the file "]),
        ("[http]\nbody_limit_bytes = 1.5", ["`http.body_limit_bytes`", "1.5 is not", "the file "]),
        ("[http]\nbody_limit_bytes = '1'", ["`http.body_limit_bytes`", "\"1\" is not", "the file "]),
        ("[log]\nformat = 'xml'", ["`log.format`", "one of `auto`, `human`, `json`", "the file "]),
        ("[log]\nlevel = 'jan=loud'", ["`log.level`", "log level", "the file "]),
        ("http = 1", ["`http`", "must be a table, as in `[http]`", "the file "]),
        ("models = 1", ["`models`", "must be a list of tables", "the file "]),
        ("models = [1]", ["`models[0]`", "must be a table", "the file "]),
        ("[[models]]\nid = 'a'", ["`models[0].path`", "is missing; it takes a path", "the file "]),
        ("[[models]]\nid = ''\npath = 'a'", ["`models[0].id`", "\"\" is not text", "the file "]),
        (
            "[[models]]\nid = 'a'\nbackend = 'upstream'",
            ["`models[0].upstreams`", "needs one `[[models.upstreams]]`", "the file "],
        ),
        (
            "[[models]]\nid = 'a'\nbackend = 'upstream'\npooling = 'mean'\n[[models.upstreams]]\nurl = 'http://a'",
            ["`models[0].pooling`", "is for models with `backend = \"llama\"`", "the file "],
        ),
        (
            "[[models]]\nid = 'a'\npath = 'b'\n[[models.upstreams]]\nurl = 'http://a'",
            ["`models[0].upstreams`", "is for models with `backend = \"upstream\"`", "the file "],
        ),
        (
            "[[models]]\nid = 'a'\nbackend = 'upstream'\n[[models.upstreams]]\nurl = 'http://k:s@a/v1'",
            ["`models[0].upstreams[0].url`", "without credentials", "the file "],
        ),
        (
            "[[models]]\nid = 'a'\nbackend = 'upstream'\n[[models.upstreams]]\nmodel = 'x'",
            ["`models[0].upstreams[0].url`", "is missing; it takes an `http://`", "the file "],
        ),
        (
            "[[models]]\nid = 'a'\nbackend = 'upstream'\n[[models.upstreams]]\nurl = 'http://a'\nkind = 'ollama'",
            ["`models[0].upstreams[0].kind`", "one of `auto`, `vllm`", "the file "],
        ),
        (
            "[http]\ntrusted_proxies = ['x']",
            ["`http.trusted_proxies`", "\"x\" is not a list of addresses", "the file "],
        ),
        ("[auth]\nanonymous = 'yes'", ["`auth.anonymous`", "one of `auto`, `allow`, `deny`", "the file "]),
        (
            "[auth.google]\ntoken_url = 'http://a.example'",
            ["`auth.google.token_url`", "an `https://` URL", "the file "],
        ),
        (
            "[http]\ncors_allowed_origins = [1]",
            ["`http.cors_allowed_origins`", "a list of strings", "the file "],
        ),
    ] {
        let message = refusal(file, &[]);
        for word in words {
            assert!(message.contains(word), "{word}: {message}");
        }
    }
    let message = refusal("", &[("JAN_SERVER__QUEUE__MAX_REQUESTS", "many")]);
    assert!(message.contains("`queue.max_requests` in the environment (JAN_SERVER__QUEUE__MAX_REQUESTS)"));
    assert!(message.contains("\"many\" is not an integer"), "{message}");
    let message = refusal("[http", &[]);
    assert!(message.contains("not valid TOML") && message.contains("line 1"), "{message}");
    let message = Config::load(Some(Path::new("/no/such/file")), [], &[]).unwrap_err().to_string();
    assert!(message.contains("/no/such/file"), "{message}");
}

#[test]
fn the_environment_takes_texts_numbers_and_lists() {
    let environment = [
        ("JAN_SERVER__STORAGE__PATH", "123"),
        ("JAN_SERVER__HTTP__CORS_ALLOWED_ORIGINS", "https://a.example, https://b.example"),
        ("JAN_SERVER__QUEUE__MAX_REQUESTS", " 7 "),
        ("JAN_SERVER__AUTH__GOOGLE__CLIENT_ID", "us"),
        ("JAN_SERVER__AUTH__ANONYMOUS", "deny"),
        ("JAN_SERVER__MODELS", r#"[{id = "a", path = "a.gguf"}]"#),
    ];
    let config = load("[[models]]\nid = 'b'\npath = 'b.gguf'", &environment, &[]).unwrap();
    assert_eq!(config.storage.path, Path::new("123"));
    assert_eq!(config.http.cors_allowed_origins, ["https://a.example", "https://b.example"]);
    assert_eq!(config.queue.max_requests, 7);
    assert_eq!(config.auth.google.client_id.as_deref(), Some("us"));
    assert_eq!(config.auth.anonymous, jan_actors::config::AnonymousPolicy::Deny);
    assert_eq!(config.models.len(), 1);
    assert_eq!(config.models[0].owned_by, "jan");
    let list = [("JAN_SERVER__HTTP__CORS_ALLOWED_ORIGINS", r#"["x", "y"]"#)];
    assert_eq!(load("", &list, &[]).unwrap().http.cors_allowed_origins, ["x", "y"]);
    let two_lines = [("JAN_SERVER__QUEUE__MAX_REQUESTS", "7\nx = 8")];
    assert!(load("", &two_lines, &[]).is_err());
    assert!(refusal("", &[("JAN_SERVER__MODELS", "a.gguf")]).contains("write a TOML list"));
}

fn path_of(model: &ModelConfig) -> &Path {
    &gguf_of(model).path
}

fn gguf_of(model: &ModelConfig) -> &GgufModel {
    match &model.source {
        ModelSource::Gguf(gguf) => gguf,
        other => panic!("{other:?}"),
    }
}

#[test]
fn model_flags_add_and_move_models() {
    let file = "[[models]]\nid = 'a'\npath = 'a.gguf'\nreplicas = 2\n";
    let flag = |id: &str, path: &str| Override::Model { id: id.to_owned(), path: path.to_owned() };
    let models = load(file, &[], &[flag("b", "b.gguf"), flag("a", "c.gguf")]).unwrap().models;
    assert_eq!(models.len(), 2);
    assert_eq!((path_of(&models[0]), gguf_of(&models[0]).replicas), (Path::new("c.gguf"), 2));
    assert_eq!((models[1].id.as_str(), path_of(&models[1])), ("b", Path::new("b.gguf")));
}

const UPSTREAMS: &str = "[[models]]\nid = 'a'\nbackend = 'upstream'\n[[models.upstreams]]\nurl = 'http://gpu1:8000/v1'\n\
     [[models.upstreams]]\nurl = 'https://gpu2/v1'\nmodel = 'b'\nkind = 'llama-server'\nkey_env = 'KEY'\nweight = 2\n";

#[test]
fn upstreams_have_defaults_and_their_own_settings() {
    let config = load(UPSTREAMS, &[], &[]).unwrap();
    let ModelSource::Upstream(model) = &config.models[0].source else { panic!("{config:?}") };
    let [first, second] = &model.upstreams[..] else { panic!("{model:?}") };
    assert_eq!((first.model.as_deref(), first.kind), (None, UpstreamKind::Auto));
    assert_eq!((first.max_in_flight, first.weight), (256, 1));
    assert_eq!((second.model.as_deref(), second.kind), (Some("b"), UpstreamKind::LlamaServer));
    assert_eq!((second.key_env.as_deref(), second.weight), (Some("KEY"), 2));
    assert_eq!(load(&config.to_masked_toml(), &[], &[]).unwrap(), config);
    let flag = Override::Model { id: "a".to_owned(), path: "a.gguf".to_owned() };
    let refused = load(UPSTREAMS, &[], &[flag]).unwrap_err().to_string();
    assert!(refused.contains("the flag --model") && refused.contains("runs elsewhere"), "{refused}");
}

#[test]
fn printed_settings_can_be_loaded_again() {
    let file = "[worker]\nprogram = '/bin/x'\n[[models]]\nid = 'a'\npath = 'b'\nchat_template = 'c'\n";
    let config = load(file, &[], &[listen_flag("[::1]:0")]).unwrap();
    assert_eq!(load(&config.to_masked_toml(), &[], &[]).unwrap(), config);
}

#[test]
fn secrets_are_not_printed() {
    let file = "[auth.google]\nclient_secret = 'hunter2'\n[web_search]\napi_key = 'hunter2'\n";
    let config = load(file, &[], &[]).unwrap();
    assert!(!config.to_masked_toml().contains("hunter2") && !format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_reference_page_is_up_to_date() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let written = std::fs::read_to_string(page).unwrap_or_default();
    assert!(
        written == reference::markdown(),
        "docs/configuration.md is out of date: cargo run --no-default-features -- config --reference > docs/configuration.md"
    );
}

proptest! {
    #[test]
    fn no_file_and_no_variable_panics(file in "[\\[\\]a-z_.= '\"0-9\n]{0,80}", name in "[A-Z_]{0,30}", value in any::<String>()) {
        let _ = load(&file, &[(&format!("{ENV_PREFIX}{name}"), &value)], &[]);
    }

    #[test]
    fn integers_are_accepted_exactly_in_their_range(index in 0..KEYS.len(), number: i64) {
        let key = &KEYS[index];
        if let Kind::Integer { min, max, .. } = key.kind {
            let in_range = (min..=max).contains(&number);
            prop_assert_eq!(key.kind.check(number.into()).is_ok(), in_range);
            prop_assert!(key.kind.check(min.into()).is_ok() && key.kind.check(max.into()).is_ok());
        }
    }
}

/// Every integer that the table allows must fit its field, and every default must be allowed.
#[test]
fn the_table_fits_the_structs() {
    for key in KEYS.iter() {
        let (section, name) = key.path.rsplit_once('.').unwrap();
        let values: Vec<String> = match key.kind {
            Kind::Integer { min, max, .. } => vec![min.to_string(), max.to_string()],
            Kind::Choice(words) => words.iter().map(|word| format!("'{word}'")).collect(),
            Kind::Flag => vec!["true".to_owned(), "false".to_owned()],
            Kind::TextList => vec!["['x']".to_owned()],
            Kind::Address => vec!["'h:1'".to_owned()],
            Kind::LogLevel => vec!["'debug'".to_owned()],
            Kind::Text | Kind::Path => vec!["'x'".to_owned()],
            Kind::Hosts => vec!["['chat.example', '[::1]:80']".to_owned()],
            Kind::Networks => vec!["['10.0.0.0/8', '::1']".to_owned()],
            Kind::Url | Kind::BaseUrl => vec!["'https://a.example'".to_owned()],
        };
        let upstreams = "id = 'a'\nbackend = 'upstream'\n[[models.upstreams]]\nurl = 'http://u'";
        for value in values {
            let file = match section {
                "models[].upstreams[]" => {
                    let rest = upstreams.replace("url = 'http://u'", "");
                    let url = if name == "url" { "" } else { "url = 'http://u'\n" };
                    format!("[[models]]\n{rest}\n{url}{name} = {value}")
                }
                "models[]" if value == "'upstream'" => format!("[[models]]\n{upstreams}"),
                "models[]" if key.backend == Some("upstream") => {
                    format!("[[models]]\n{name} = {value}\n{upstreams}")
                }
                "models[]" => {
                    let others = [("id", "id = 'a'\n"), ("path", "path = 'b'\n")];
                    let others = others.iter().filter(|(other, _)| *other != name).map(|(_, line)| *line);
                    format!("[[models]]\n{}{name} = {value}", others.collect::<String>())
                }
                section => format!("[{section}]\n{name} = {value}"),
            };
            assert!(load(&file, &[], &[]).is_ok(), "{file}");
        }
    }
    let defaults = Config::default().to_masked_toml();
    assert!(load(&defaults, &[], &[]).is_ok(), "{defaults}");
}

#[test]
fn the_table_has_every_field_of_the_structs() {
    let mut fields = field_tracer::fields_of::<Config>();
    let mut keys: Vec<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    fields.sort();
    keys.sort();
    assert_eq!(keys, fields);
}

/// Lists the fields that a type deserializes, by acting as an input that contains all of them.
mod field_tracer {
    use std::cell::RefCell;

    use serde::de::value::{Error, StrDeserializer};
    use serde::de::{
        Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
        VariantAccess, Visitor,
    };
    use serde::forward_to_deserialize_any;

    pub fn fields_of<'de, T: Deserialize<'de>>() -> Vec<String> {
        let found = RefCell::new(Vec::new());
        T::deserialize(Tracer { path: String::new(), found: &found }).unwrap();
        found.into_inner()
    }

    #[derive(Clone)]
    struct Tracer<'a> {
        path: String,
        found: &'a RefCell<Vec<String>>,
    }

    impl Tracer<'_> {
        fn leaf(&self) {
            self.found.borrow_mut().push(self.path.clone());
        }
    }

    impl<'de> Deserializer<'de> for Tracer<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.leaf();
            visitor.visit_str("x")
        }

        fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.leaf();
            visitor.visit_u16(1)
        }

        fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.deserialize_u16(visitor)
        }

        fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.deserialize_u16(visitor)
        }

        fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.leaf();
            visitor.visit_bool(true)
        }

        fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_some(self)
        }

        fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_seq(One(Some(self)))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            visitor.visit_map(Fields { tracer: self, fields, current: "" })
        }

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            variants: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            self.leaf();
            visitor.visit_enum(First(variants[0]))
        }

        forward_to_deserialize_any! {
            i8 i16 i32 i64 u8 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct tuple
            tuple_struct map identifier ignored_any
        }
    }

    struct One<'a>(Option<Tracer<'a>>);

    impl<'de> SeqAccess<'de> for One<'_> {
        type Error = Error;

        fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
            let Some(tracer) = self.0.take() else { return Ok(None) };
            let (path, found) = (tracer.path.clone(), tracer.found);
            let before = found.borrow().len();
            let element = seed.deserialize(Tracer { path: format!("{path}[]"), found })?;
            // A list of plain values is one key; a list of tables has a key for each of their fields.
            for name in &mut found.borrow_mut()[before..] {
                if *name == format!("{path}[]") {
                    name.clone_from(&path);
                }
            }
            Ok(Some(element))
        }
    }

    struct Fields<'a> {
        tracer: Tracer<'a>,
        fields: &'static [&'static str],
        current: &'static str,
    }

    impl<'de> MapAccess<'de> for Fields<'_> {
        type Error = Error;

        fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
            let Some((first, rest)) = self.fields.split_first() else { return Ok(None) };
            (self.current, self.fields) = (first, rest);
            let name: StrDeserializer<'_, Error> = first.into_deserializer();
            seed.deserialize(name).map(Some)
        }

        fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
            let dot = if self.tracer.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{}", self.tracer.path, self.current);
            seed.deserialize(Tracer { path, found: self.tracer.found })
        }
    }

    struct First(&'static str);

    impl<'de> EnumAccess<'de> for First {
        type Error = Error;
        type Variant = Self;

        fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
            let name: StrDeserializer<'_, Error> = self.0.into_deserializer();
            Ok((seed.deserialize(name)?, self))
        }
    }

    impl<'de> VariantAccess<'de> for First {
        type Error = Error;

        fn unit_variant(self) -> Result<(), Error> {
            Ok(())
        }

        fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _: S) -> Result<S::Value, Error> {
            unreachable!("settings have plain choices only")
        }

        fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
            unreachable!("settings have plain choices only")
        }

        fn struct_variant<V: Visitor<'de>>(
            self,
            _: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            unreachable!("settings have plain choices only")
        }
    }
}
