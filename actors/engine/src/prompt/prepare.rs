//! The conversion of a prompt to tokens: rendering the chat template, tokenizing, checking that it fits.

mod answer_length;
pub mod constraints;
mod draft;
pub mod embedding;
mod keep;

pub use draft::{Draft, Prepared, ReadPrompt, SharedPrompt};

use std::sync::{Arc, Mutex};

use jan_protocol::output_formats::{Formats, Layout, ReasoningFormat, RepeatedCalls, ToolFormat};
use jan_protocol::report::Rejection;
use jan_protocol::types::{
    ChatPrompt, Inspect, Inspected, Prompt, SamplingParams, Token, TokenizerFacts, ToolPlan,
};
use serde_json::Value;

use super::chat_template::TemplateError;
use super::render::Renderer;
use super::sharing::Sharing;
use super::shield::{Shield, Shielded};
use crate::decode::constraint::Grammars;
use crate::decode::phases::{Flow, Thinking};
use crate::llama::Model;
use crate::types::Sequence;
use crate::vetting::VettingSettings;
use answer_length::answer_length;
use draft::Rendered;
use keep::Unenforced;

/// The facts about a model that preparing needs.
#[derive(Debug)]
pub struct Preparer {
    renderer: Renderer,
    /// Keeps callers' text from being read as control tokens.
    shield: Shield,
    sharing: Sharing,
    formats: Formats,
    /// Control tokens whose text delimits an answer's parts.
    shown: Vec<(Token, Vec<u8>)>,
    tokenizer: TokenizerFacts,
    context_length: u32,
    /// `true` if a request for a longer answer than the context has room for gets a shorter one.
    clamp: bool,
    longest_piece: usize,
    /// The tokens that end an answer.
    ends: Arc<[Token]>,
    generates: bool,
    embeds: bool,
    /// The settings for vetting constraints before they are compiled here; `None`: no vetting.
    vetting: Option<VettingSettings>,
    /// The compiler, made with the first constraint.
    grammars: Mutex<Option<Arc<Grammars>>>,
    /// The tools whose schemas turned out not to be enforceable.
    unenforced: Mutex<Unenforced>,
}

impl Preparer {
    /// `template`: Jinja source, or `None` for the GGUF's own (ChatML if it has none). `formats`: the names of those that are
    /// set, empty if the template determines them. `share_all`: `true` if all tenants are one; `shared_prompts`: the system
    /// prompts that all of them share.
    ///
    /// # Errors
    /// A template that does not parse.
    pub fn new(
        model: &Model,
        template: Option<&str>,
        (tools, reasoning): (&str, &str),
        context_length: u32,
        (share_all, shared_prompts): (bool, &[String]),
    ) -> Result<Self, TemplateError> {
        let own = model.metadata("tokenizer.chat_template");
        let source = template.or(own.as_deref()).unwrap_or(super::chat_template::CHATML);
        let bos_text = model.special_text(model.bos());
        let eos_text = model.special_text(model.eos());
        let renderer = Renderer::new(source, &bos_text, &eos_text)?;
        let chat_template = source.to_owned();
        let mut formats = renderer.formats;
        formats.tools = Some(ToolFormat::by_name(tools).or(formats.tools).unwrap_or(ToolFormat::DEFAULT));
        if !reasoning.is_empty() {
            formats.reasoning = ReasoningFormat::by_name(reasoning);
        }
        let control = |text: &str| {
            let token = single(model, text)?;
            model.piece(token).is_empty().then(|| (token, text.as_bytes().to_vec()))
        };
        let shield = Shield::new(&model.control_texts(), &formats.markers_in_text())
            .map_err(|error| TemplateError::Refused(format!("its control tokens: {error}")))?;
        let shown = formats.markers().into_iter().filter_map(control).collect();
        let vocabulary = Token::try_from(model.vocabulary()).unwrap_or(0);
        let longest_piece = (0..vocabulary).map(|t| model.piece(t).len()).max().unwrap_or(1).max(1);
        let ends = (0..vocabulary).filter(|token| model.is_end_of_generation(*token)).collect();
        let sharing = Sharing::new(share_all, common_prompts(model, &renderer, &bos_text, shared_prompts));
        let (clamp, generates, embeds, vetting, grammars) = (true, true, true, None, Mutex::default());
        Ok(Self {
            renderer,
            shield,
            sharing,
            formats,
            shown,
            tokenizer: TokenizerFacts { bos: bos_text, eos: eos_text, chat_template },
            context_length,
            clamp,
            longest_piece,
            ends,
            generates,
            embeds,
            vetting,
            grammars,
            unenforced: Mutex::default(),
        })
    }

    /// Refuses requests for longer answers than the context has room for, instead of shortening them.
    pub fn refuse_overflow(&mut self) {
        self.clamp = false;
    }

    /// Returns the facts about the tokenizer.
    pub fn tokenizer(&self) -> &TokenizerFacts {
        &self.tokenizer
    }

    /// The model turned out to make embeddings and nothing else.
    pub fn refuse_generation(&mut self) {
        self.generates = false;
    }

    /// The model scores pairs of texts and makes no embeddings.
    pub fn refuse_embeddings(&mut self) {
        self.embeds = false;
    }

    /// # Errors
    /// [`Rejection`], with the defect.
    pub fn prepare(&self, model: &Arc<Model>, draft: Draft) -> Result<Prepared, Rejection> {
        let Draft { id, request, prompt: shared, generated, layout, count_only: _ } = draft;
        if !self.generates {
            return Err(Rejection::InvalidParameter {
                param: "model",
                message: "this model makes embeddings and cannot answer; name another one".to_owned(),
            });
        }
        let vocabulary = Token::try_from(model.vocabulary()).unwrap_or(0);
        if let Some(&(token, _)) =
            request.sampling.logit_bias.iter().find(|(t, _)| !(0..vocabulary).contains(t))
        {
            return Err(Rejection::InvalidParameter {
                param: "logit_bias",
                message: format!("token {token} is not in this model's vocabulary of {vocabulary} tokens"),
            });
        }
        let is_chat = matches!(*shared.prompt, Prompt::Chat(_));
        let read = shared.read.get_or_init(|| {
            let (tokens, text) = self.tokens(model, &shared.prompt, vocabulary, request.want_prompt_text)?;
            Ok(ReadPrompt { tokens: tokens.into(), text: text.map(Into::into) })
        });
        let read = read.clone()?;
        let ReadPrompt { tokens: prompt, text } = read.clone();
        if prompt.is_empty() {
            return Err(Rejection::InvalidPrompt("the prompt has no tokens; give at least one".to_owned()));
        }
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let max_tokens = answer_length(self.context_length, prompt_tokens, request.max_tokens, self.clamp)?;
        let layout = match layout {
            Some(layout) => layout,
            None if is_chat => self.layout(text.as_deref().unwrap_or_default(), request.tools.as_deref()),
            None => Layout::default(),
        };
        let keep = self.keep(model, request.constraint.as_deref(), request.tools.as_deref(), &layout)?;
        let sampling = self.without_calls(request.sampling, &shared.prompt, request.tools.as_deref());
        let thinking =
            layout.reasoning.map(|format| self.thinking(model, format, &layout, request.thinking_budget));
        // Without tags or tokens of its own an answer shows no control tokens.
        let shown = if layout == Layout::default() { Arc::default() } else { self.shown.clone().into() };
        let repeats = request.tools.as_deref().filter(|tools| tools.parallel && keep.has_calls());
        let repeats = repeats.map(|tools| RepeatedCalls::new(&layout, &tools.tools(), keep.is_lenient()));
        let flow = Some(Flow::new(thinking, keep).watching(repeats)).filter(|flow| !flow.is_idle());
        let mut sequence = Sequence {
            id,
            user: request.user,
            tenant: self.sharing.tenant(&request.tenant, request.cache_key.as_deref().unwrap_or_default()),
            owner: self.sharing.owner(&request.tenant, request.cache_key.as_deref().unwrap_or_default()),
            common: self.sharing.common(&prompt),
            prompt,
            generated,
            sampling_before_end: self.without_end(&sampling),
            sampling,
            stop: request.stop,
            max_tokens,
            logprobs: request.logprobs,
            score_prompt: request.score_prompt,
            flow: None,
            stops_count: Vec::new(),
            shown,
        };
        if let Some(mut flow) = flow {
            let mut stops_count = Vec::with_capacity(sequence.generated.len());
            for &token in &sequence.generated {
                let counted = flow.accept_counting(token, &sequence.piece(model, token));
                stops_count.push(counted.map_err(|error| Rejection::Internal(error.to_string()))?);
            }
            (sequence.flow, sequence.stops_count) = (Some(flow), stops_count);
        }
        let text = read.text.filter(|_| request.want_prompt_text);
        let told = (!shared.is_told()).then_some(ReadPrompt { tokens: read.tokens, text });
        Ok(Prepared { sequence, prompt: shared, told, layout })
    }

    /// Bans the mark of a call, if it is a token, from an answer that is shown tools and may call none.
    fn without_calls(
        &self,
        sampling: SamplingParams,
        prompt: &Prompt,
        tools: Option<&ToolPlan>,
    ) -> SamplingParams {
        let shows_tools = matches!(prompt, Prompt::Chat(chat) if !chat.tools.is_empty());
        let mark = self.formats.tools.and_then(|format| format.syntax().trigger());
        let token = mark.and_then(|mark| self.shown.iter().find(|(_, text)| text == mark.as_bytes()));
        match token {
            Some((token, _)) if shows_tools && tools.is_none() => {
                let others = sampling.logit_bias.iter().filter(|(other, _)| other != token).copied();
                let logit_bias = others.chain([(*token, -100.0)]).collect();
                SamplingParams { logit_bias, ..sampling }
            }
            _ => sampling,
        }
    }

    /// Returns the parameters for tokens that must not end the answer, if there are such tokens.
    fn without_end(&self, sampling: &SamplingParams) -> Option<Box<SamplingParams>> {
        if sampling.min_tokens == 0 && !sampling.ignore_eos {
            return None;
        }
        let others = sampling.logit_bias.iter().filter(|(token, _)| !self.ends.contains(token));
        let bans = self.ends.iter().map(|&token| (token, -100.0));
        Some(Box::new(SamplingParams {
            logit_bias: others.copied().chain(bans).collect(),
            ..sampling.clone()
        }))
    }

    /// Returns the way in which the answer to this prompt is to be read.
    fn layout(&self, prompt: &str, tools: Option<&ToolPlan>) -> Layout {
        let tags = self.formats.reasoning.and_then(ReasoningFormat::tags);
        Layout {
            tools: tools.and(self.formats.tools),
            enforced: tools.is_some_and(|tools| tools.required || tools.guided),
            reasoning: self.formats.reasoning,
            thinking_open: tags.is_some_and(|(start, _)| prompt.trim_end().ends_with(start)),
        }
    }

    fn thinking(
        &self,
        model: &Model,
        format: ReasoningFormat,
        layout: &Layout,
        budget: Option<u32>,
    ) -> Thinking {
        let (tags, closing) = format.enclosure();
        Thinking {
            tags,
            open: layout.thinking_open,
            start: single(model, tags.0),
            close: model.tokenize(closing, false).into(),
            budget,
        }
    }

    fn tokens(
        &self,
        model: &Model,
        prompt: &Prompt,
        vocabulary: Token,
        want_text: bool,
    ) -> Result<(Vec<Token>, Option<String>), Rejection> {
        match prompt {
            Prompt::Chat(chat) => {
                let rendered = self.render(chat)?;
                let tokens = self.chat_tokens(model, &rendered)?;
                Ok((tokens, Some(rendered.into_text())))
            }
            Prompt::Text(text) => {
                let mut tokens = self.tokenize(model, text, true)?;
                if tokens.is_empty() {
                    // An empty prompt means "from the beginning", as OpenAI's default `<|endoftext|>` does.
                    let first = [model.bos(), model.eos()].into_iter().find(|t| (0..vocabulary).contains(t));
                    tokens.extend(first);
                }
                Ok((tokens, want_text.then(|| text.clone())))
            }
            Prompt::Infill { prefix, suffix } => {
                let [pre, suf, mid] = model.infill_tokens().ok_or_else(|| Rejection::InvalidParameter {
                    param: "suffix",
                    message:
                        "this model was not trained to fill a gap: its file names no infill tokens; leave \
                              'suffix' out or choose another model"
                            .to_owned(),
                })?;
                self.check_length(prefix.len().saturating_add(suffix.len()))?;
                // Prefix, suffix, middle: the order that llama-server and most models trained for it take.
                let mut tokens = model.tokenize("", true);
                tokens.push(pre);
                tokens.extend(model.tokenize_plain(prefix));
                tokens.push(suf);
                tokens.extend(model.tokenize_plain(suffix));
                tokens.push(mid);
                Ok((tokens, None))
            }
            Prompt::Tokens(tokens) => {
                check_tokens(tokens, vocabulary)?;
                let text = want_text.then(|| {
                    let bytes: Vec<u8> = tokens.iter().flat_map(|&t| model.piece(t)).collect();
                    String::from_utf8_lossy(&bytes).into_owned()
                });
                Ok((tokens.clone(), text))
            }
        }
    }

    /// Returns this model's reading of a prompt.
    ///
    /// # Errors
    /// [`Rejection::InvalidPrompt`].
    pub fn inspect(&self, model: &Model, question: Inspect) -> Result<Inspected, Rejection> {
        let (text, tokens) = match question {
            Inspect::Chat { chat, tokens } => {
                let rendered = self.render(&chat)?;
                let tokens = match tokens {
                    true => self.chat_tokens(model, &rendered)?,
                    false => Vec::new(),
                };
                (rendered.into_text(), tokens)
            }
            Inspect::Text { text, add_special } => {
                let tokens = self.tokenize(model, &text, add_special)?;
                (text, tokens)
            }
            Inspect::Tokens(tokens) => {
                let vocabulary = Token::try_from(model.vocabulary()).unwrap_or(0);
                check_tokens(&tokens, vocabulary)?;
                (String::new(), tokens)
            }
        };
        let pieces: Vec<Vec<u8>> = tokens.iter().map(|&token| model.special_piece(token)).collect();
        let text =
            if text.is_empty() { String::from_utf8_lossy(&pieces.concat()).into_owned() } else { text };
        Ok(Inspected { text, tokens, pieces })
    }

    /// The prompt's text.
    ///
    /// # Errors
    /// The template's complaint about it.
    fn render(&self, chat: &ChatPrompt) -> Result<Rendered, Rejection> {
        // Each message takes at least the token that ends it; rendering very many takes long.
        if chat.messages.len() > self.context_length as usize {
            return Err(Rejection::ContextLengthExceeded {
                limit: self.context_length,
                prompt_tokens: u32::try_from(chat.messages.len()).unwrap_or(u32::MAX),
                requested: 1,
            });
        }
        // The template itself parsed when the model was loaded: a failure now is in the messages.
        let shielded = self.shield.shield(chat);
        let (chat, mark) = match &shielded {
            Some(Shielded { chat, mark }) => (chat, Some(*mark)),
            None => (chat, None),
        };
        let text = self.renderer.render(chat).map_err(|error| {
            Rejection::InvalidPrompt(format!("the model's chat template refuses these messages: {error}"))
        })?;
        Ok(Rendered { text, mark })
    }

    /// A rendered chat's tokens: those of the template are control tokens, those in callers' texts are text.
    fn chat_tokens(
        &self,
        model: &Model,
        Rendered { text, mark }: &Rendered,
    ) -> Result<Vec<Token>, Rejection> {
        let add_bos = !self.has_bos(text);
        let Some(mark) = mark else { return self.tokenize(model, text, add_bos) };
        self.check_length(text.len())?;
        let mut tokens = Vec::new();
        for (index, piece) in text.split(*mark).enumerate() {
            tokens.extend(model.tokenize(piece, add_bos && index == 0));
        }
        Ok(tokens)
    }

    fn has_bos(&self, text: &str) -> bool {
        !self.tokenizer.bos.is_empty() && text.starts_with(&self.tokenizer.bos)
    }

    /// Tokenizes, but not texts so long that they cannot fit however they are cut: tokenizing megabytes
    /// would keep others waiting for nothing.
    fn tokenize(&self, model: &Model, text: &str, add_bos: bool) -> Result<Vec<Token>, Rejection> {
        self.check_length(text.len())?;
        Ok(model.tokenize(text, add_bos))
    }

    /// Refuses a text that is too long however few tokens it may have: tokenizing it would take long.
    fn check_length(&self, bytes: usize) -> Result<(), Rejection> {
        let least = bytes / self.longest_piece;
        if least <= self.context_length as usize {
            return Ok(());
        }
        Err(Rejection::ContextLengthExceeded {
            limit: self.context_length,
            prompt_tokens: u32::try_from(least).unwrap_or(u32::MAX),
            requested: 1,
        })
    }
}

/// Pairs of prompts that agree in nothing but the template's text, alone and behind each of the system prompts that are shared.
fn common_prompts(
    model: &Model,
    renderer: &Renderer,
    bos_text: &str,
    shared_prompts: &[String],
) -> Vec<[Vec<Token>; 2]> {
    let message = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let pair = |of: &dyn Fn(&str) -> Vec<Value>| {
        let tokens = |content: &str| {
            let text = renderer.render(&ChatPrompt::from(of(content))).ok()?;
            Some(model.tokenize(&text, bos_text.is_empty() || !text.starts_with(bos_text)))
        };
        Some([tokens("Aa")?, tokens("0")?])
    };
    let user = |content: &str| vec![message("user", content)];
    let system = |content: &str| vec![message("system", content), message("user", "?")];
    let shared = shared_prompts
        .iter()
        .filter_map(|prompt| pair(&|content| vec![message("system", prompt), message("user", content)]));
    [pair(&user), pair(&system)].into_iter().flatten().chain(shared).collect()
}

fn check_tokens(tokens: &[Token], vocabulary: Token) -> Result<(), Rejection> {
    match tokens.iter().find(|token| !(0..vocabulary).contains(token)) {
        Some(token) => Err(Rejection::InvalidPrompt(format!(
            "token {token} is not in this model's vocabulary of {vocabulary} tokens"
        ))),
        None => Ok(()),
    }
}

/// The token that a text is, if it is one.
fn single(model: &Model, text: &str) -> Option<Token> {
    match model.tokenize(text, false)[..] {
        [token] => Some(token),
        _ => None,
    }
}
