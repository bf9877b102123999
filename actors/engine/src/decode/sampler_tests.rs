use proptest::prelude::*;

use super::*;

fn choose(logits: &[f32], params: &SamplingParams, position: u64) -> Option<Token> {
    sampled(logits, params, &TokenCounts::default(), position, &mut Scratch::default())
}

/// The choice, which leaves the logits as they were.
fn sampled(
    logits: &[f32],
    params: &SamplingParams,
    seen: &TokenCounts,
    position: u64,
    scratch: &mut Scratch,
) -> Option<Token> {
    let mut after = logits.to_vec();
    let chosen = sample(&mut after, params, seen, position, scratch);
    let same = after.iter().zip(logits).all(|(after, before)| after.to_bits() == before.to_bits());
    assert!(same, "{params:?} left its mark on {logits:?}");
    chosen
}

/// The logits after bias and penalties.
fn adjusted(logits: &[f32], params: &SamplingParams, seen: &TokenCounts) -> Vec<f32> {
    let mut logits = logits.to_vec();
    adjust(&mut logits, params, seen, &mut Vec::new());
    logits
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..SamplingParams::default() }
}

/// The tokens that a request has seen: those of its prompt and of its answer.
type Seen<'a> = (&'a [Token], &'a [Token]);

fn counts_of((prompt, generated): Seen<'_>) -> TokenCounts {
    let mut counts: TokenCounts = generated.iter().copied().collect();
    prompt.iter().for_each(|&token| counts.record_prompt(token));
    counts
}

/// The definition, in f64 and without any shortcut. The expected surprise is taken for larger by `surprise_by` of it.
fn reference(
    logits: &[f32],
    params: &SamplingParams,
    (prompt, generated): Seen<'_>,
    draw: f64,
    surprise_by: f64,
) -> Option<Token> {
    let mut adjusted: Vec<f64> = logits
        .iter()
        .map(|&l| if l.is_nan() { f64::NEG_INFINITY } else { f64::from(below_infinity(l)) })
        .collect();
    for &(token, bias) in &*params.logit_bias {
        if let Some(logit) = adjusted.get_mut(token as usize) {
            *logit += if bias <= -100.0 { f64::NEG_INFINITY } else { f64::from(bias) };
        }
    }
    for (token, logit) in adjusted.iter_mut().enumerate() {
        if prompt.contains(&(token as Token)) || generated.contains(&(token as Token)) {
            let penalty = f64::from(params.repeat_penalty);
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
        let count = generated.iter().filter(|&&g| g as usize == token).count() as f64;
        *logit -= count * f64::from(params.frequency_penalty);
        *logit -= if count > 0.0 { f64::from(params.presence_penalty) } else { 0.0 };
    }
    let mut ranked: Vec<(usize, f64)> =
        adjusted.into_iter().enumerate().filter(|(_, l)| l.is_finite()).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let max = ranked.first()?.1;
    if params.temperature < 1e-5 {
        return Some(ranked[0].0 as Token);
    }
    if params.top_k > 0 {
        ranked.truncate(params.top_k as usize);
    }
    for (_, logit) in &mut ranked {
        *logit = ((*logit - max) / f64::from(params.temperature)).exp();
    }
    if params.top_p < 1.0 {
        let total: f64 = ranked.iter().map(|(_, w)| w).sum();
        let mut reached = 0.0;
        let enough = ranked.iter().position(|(_, weight)| {
            reached += weight;
            reached >= f64::from(params.top_p) * total
        });
        ranked.truncate(enough.map_or(ranked.len(), |index| index + 1));
    }
    ranked.retain(|(_, weight)| *weight >= f64::from(params.min_p));
    if params.typical_p < 1.0 {
        let total: f64 = ranked.iter().map(|(_, w)| w).sum();
        let surprise = |weight: f64| -(weight / total).ln();
        ranked.retain(|(_, weight)| *weight > 0.0);
        let expected: f64 = ranked.iter().map(|&(_, weight)| weight / total * surprise(weight)).sum();
        let expected = expected + (expected + 1.0) * surprise_by;
        let distance = |weight: f64| (surprise(weight) - expected).abs();
        ranked.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
        let mut reached = 0.0;
        let enough = ranked.iter().position(|(_, weight)| {
            reached += weight;
            reached >= f64::from(params.typical_p) * total
        });
        ranked.truncate(enough.map_or(ranked.len(), |index| index + 1));
    }
    ranked.sort_by_key(|(token, _)| *token);
    let target = draw * ranked.iter().map(|(_, w)| w).sum::<f64>();
    let mut reached = 0.0;
    let found = ranked.iter().find(|(_, weight)| {
        reached += weight;
        reached > target
    });
    found.or(ranked.last()).map(|(token, _)| *token as Token)
}

/// Returns `true` if `token` is the reference's choice, or would be after a nudge to the draw or to a filter that is as small as
/// f32 arithmetic can cause.
fn agrees(token: Token, logits: &[f32], params: &SamplingParams, seen: Seen<'_>, draw: f64) -> bool {
    let nudge = |value: f32, by: f32| if value < 1.0 { value * (1.0 + by) } else { value };
    // The digits in base 3 give the direction in which each of five is nudged; 0 is not at all.
    (0..3usize.pow(5)).any(|which| {
        let by = |digit: u32| [0.0f32, 5e-5, -5e-5][which / 3usize.pow(digit) % 3];
        let nudged = SamplingParams {
            top_p: nudge(params.top_p, by(1)),
            min_p: params.min_p * (1.0 + by(2)),
            typical_p: nudge(params.typical_p, by(3)),
            ..params.clone()
        };
        let draw = (draw + f64::from(by(0))).clamp(0.0, 1.0);
        reference(logits, &nudged, seen, draw, f64::from(by(4))) == Some(token)
    })
}

fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        prop::collection::vec(-20.0f32..20.0, 1..40),
        // Many ties.
        prop::collection::vec((-3i8..3).prop_map(f32::from), 1..600),
        // Several blocks, of the shape that models give: a few likely tokens above many unlikely ones.
        (
            prop::collection::vec(-12.0f32..2.0, 300..3000),
            prop::collection::vec((any::<u16>(), 5.0f32..16.0), 0..8)
        )
            .prop_map(|(mut logits, peaks)| {
                let len = logits.len();
                peaks.into_iter().for_each(|(at, logit)| logits[at as usize % len] = logit);
                logits
            }),
        // Some are banned or broken.
        prop::collection::vec(
            prop_oneof![
                4 => -10.0f32..10.0,
                1 => Just(f32::NEG_INFINITY),
                1 => Just(f32::NAN),
            ],
            1..400
        ),
    ]
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    (
        prop_oneof![1 => Just(0.0f32), 3 => 0.1f32..2.0],
        prop_oneof![Just(1.0f32), 0.01f32..1.0],
        prop_oneof![Just(0u32), 1u32..200],
        prop_oneof![Just(0.0f32), 0.001f32..1.0],
        prop_oneof![2 => Just(1.0f32), 1 => 0.01f32..1.0],
        prop_oneof![2 => Just(1.0f32), 1 => 0.5f32..=2.0],
        prop_oneof![Just((0.0f32, 0.0f32)), (-2.0f32..2.0, -2.0f32..2.0)],
        prop::collection::vec((0i32..400, -100.0f32..100.0), 0..4),
        any::<u64>(),
    )
        .prop_map(
            |(
                temperature,
                top_p,
                top_k,
                min_p,
                typical_p,
                repeat_penalty,
                (frequency, presence),
                logit_bias,
                seed,
            )| {
                SamplingParams {
                    min_tokens: 0,
                    ignore_eos: false,
                    temperature,
                    top_p,
                    top_k,
                    min_p,
                    typical_p,
                    repeat_penalty,
                    presence_penalty: presence,
                    frequency_penalty: frequency,
                    logit_bias: Vec::into(logit_bias),
                    seed,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn chooses_what_the_definition_chooses(
        logits in any_logits(),
        params in any_params(),
        prompt in prop::collection::vec(0i32..400, 0..20),
        generated in prop::collection::vec(0i32..400, 0..20),
        position in any::<u64>(),
    ) {
        // A reused scratch must not carry anything over.
        let mut scratch = Scratch::default();
        sampled(&[3.0; 700], &SamplingParams::default(), &TokenCounts::default(), 1, &mut scratch);
        let seen = (&prompt[..], &generated[..]);
        let counts = counts_of(seen);
        let draw = uniform(params.seed, position);
        let chosen = sampled(&logits, &params, &counts, position, &mut scratch);
        let again = sampled(&logits, &params, &counts, position, &mut scratch);
        prop_assert_eq!(chosen, again);
        match chosen {
            // With a penalty or bias two f32 logits can tie or swap that differ in f64, so a greedy choice may differ
            // by as much as rounding.
            Some(token) if params.temperature == 0.0 => {
                let best = reference(&logits, &params, seen, draw, 0.0).expect("something was chosen");
                let mut changed = Vec::new();
                let mut adjusted = logits.clone();
                adjust(&mut adjusted, &params, &counts, &mut changed);
                if changed.is_empty() {
                    prop_assert_eq!(token, best);
                } else {
                    prop_assert!((adjusted[token as usize] - adjusted[best as usize]).abs() < 1e-4);
                }
            }
            Some(token) => prop_assert!(
                agrees(token, &logits, &params, seen, draw),
                "chose {}, the reference {:?}", token, reference(&logits, &params, seen, draw, 0.0)
            ),
            None => prop_assert_eq!(reference(&logits, &params, seen, draw, 0.0), None),
        }
    }

    #[test]
    fn a_tiny_nucleus_or_one_candidate_is_greedy(logits in any_logits(), seed: u64, position: u64) {
        let best = choose(&logits, &greedy(), position);
        for params in [
            SamplingParams { top_p: 1e-9, ..SamplingParams::default() },
            SamplingParams { top_p: 0.0, ..SamplingParams::default() },
            SamplingParams { top_k: 1, ..SamplingParams::default() },
            SamplingParams { temperature: 1e-6, ..SamplingParams::default() },
            SamplingParams { temperature: f32::NAN, ..SamplingParams::default() },
        ] {
            prop_assert_eq!(choose(&logits, &SamplingParams { seed, ..params }, position), best);
        }
    }

    #[test]
    fn banned_tokens_are_never_chosen(
        logits in any_logits(),
        banned in prop::collection::btree_set(0i32..60, 0..60),
        params in any_params(),
        position: u64,
    ) {
        let logit_bias = banned.iter().map(|&token| (token, -100.0)).collect();
        match choose(&logits, &SamplingParams { logit_bias, ..params }, position) {
            Some(token) => {
                prop_assert!(!banned.contains(&token));
                prop_assert!(logits[token as usize] > f32::NEG_INFINITY);
            }
            None => prop_assert!(
                logits.iter().enumerate().all(|(index, &logit)| banned.contains(&(index as Token))
                    || logit.is_nan() || logit == f32::NEG_INFINITY)
            ),
        }
    }

    #[test]
    fn the_fast_exponential_is_exact_to_f32(x in -87.0f32..0.0) {
        let exact = f64::from(x).exp();
        prop_assert!((f64::from(exp_nonpositive(x)) - exact).abs() <= exact * 2.5e-7);
    }

    #[test]
    fn any_bits_are_survived(
        bits in prop::collection::vec(any::<u32>(), 0..300),
        temperature in any::<u32>(), top_p in any::<u32>(), min_p in any::<u32>(), top_k: u32,
        typical_p in any::<u32>(), repeat_penalty in any::<u32>(),
        bias in prop::collection::vec((any::<i32>(), any::<u32>()), 0..3),
        position: u64,
    ) {
        let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let params = SamplingParams {
            temperature: f32::from_bits(temperature),
            top_p: f32::from_bits(top_p),
            min_p: f32::from_bits(min_p),
            top_k,
            typical_p: f32::from_bits(typical_p),
            repeat_penalty: f32::from_bits(repeat_penalty),
            logit_bias: bias.into_iter().map(|(token, bias)| (token, f32::from_bits(bias))).collect(),
            ..SamplingParams::default()
        };
        let seen: Vec<Token> = (0..10).collect();
        let chosen = sampled(&logits, &params, &counts_of((&seen, &seen[5..])), position, &mut Scratch::default());
        if let Some(token) = chosen {
            prop_assert!(!logits[token as usize].is_nan());
        }
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals_wherever_it_is() {
    let mut logits = vec![-1.0; 1000];
    for at in [999, 513, 127, 128] {
        logits[at] = 4.0;
        assert_eq!(
            choose(&logits, &greedy(), 0),
            Some(logits.iter().position(|&l| l == 4.0).unwrap() as Token)
        );
    }
}

#[test]
fn nothing_to_choose_is_none() {
    for logits in [vec![], vec![f32::NAN; 300], vec![f32::NEG_INFINITY; 300]] {
        for params in [greedy(), SamplingParams::default(), SamplingParams { top_k: 5, ..Default::default() }]
        {
            assert_eq!(choose(&logits, &params, 0), None);
        }
    }
}

#[test]
fn infinite_logits_share_everything() {
    let mut logits = vec![80.0; 400];
    logits[7] = f32::INFINITY;
    logits[300] = f32::INFINITY;
    assert_eq!(choose(&logits, &greedy(), 0), Some(7));
    for params in
        [SamplingParams::default(), SamplingParams { top_p: 0.9, min_p: 0.1, ..SamplingParams::default() }]
    {
        let of_seven = (0..1000).filter(|&at| match choose(&logits, &params, at) {
            Some(7) => true,
            Some(300) => false,
            other => panic!("chose {other:?}"),
        });
        assert!((400..600).contains(&of_seven.count()));
    }
}

#[test]
fn penalties_are_openais() {
    let generated: TokenCounts = [0, 0, 0, 1].into_iter().collect();
    let params = SamplingParams { frequency_penalty: 0.5, presence_penalty: 0.25, ..greedy() };
    assert_eq!(adjusted(&[4.0, 4.0, 4.0], &params, &generated), [2.25, 3.25, 4.0]);
    assert_eq!(sampled(&[4.0, 4.0, 3.5], &params, &generated, 0, &mut Scratch::default()), Some(2));
    assert_eq!(generated.count(0), 3);
    assert_eq!(generated.count(2), 0);
}

#[test]
fn the_repeat_penalty_takes_prompt_and_answer_and_comes_first() {
    let seen = counts_of((&[0, 0, 3], &[1, 3, 9]));
    let params = SamplingParams { repeat_penalty: 2.0, ..greedy() };
    assert_eq!(adjusted(&[4.0, -4.0, 4.0, 0.0], &params, &seen), [2.0, -8.0, 4.0, 0.0]);
    let params = SamplingParams { frequency_penalty: 0.5, presence_penalty: 0.25, ..params };
    assert_eq!(adjusted(&[4.0, -4.0, 4.0, 0.0], &params, &seen), [2.0, -8.75, 4.0, -0.75]);
    let params = SamplingParams { logit_bias: [(0, 6.0)].into(), repeat_penalty: 0.5, ..greedy() };
    assert_eq!(adjusted(&[4.0, -4.0, 4.0, 0.0], &params, &seen), [20.0, -2.0, 4.0, 0.0]);
    for off in [1.0, 0.0, -1.0, f32::NAN] {
        let params = SamplingParams { repeat_penalty: off, ..greedy() };
        assert_eq!(adjusted(&[4.0, -4.0], &params, &seen), [4.0, -4.0]);
    }
}

#[test]
fn typical_tokens_need_not_be_the_likeliest() {
    // The expected surprise is 1.09; the tokens' are 0.51, 1.61 and twice 2.30.
    let logits: Vec<f32> = [0.6f32, 0.2, 0.1, 0.1].iter().map(|p| p.ln()).collect();
    let chosen = |typical_p: f32, top_k: u32| {
        let params = SamplingParams { typical_p, top_k, ..SamplingParams::default() };
        (0..500).filter_map(|at| choose(&logits, &params, at)).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(chosen(0.19, 0), [1].into());
    assert_eq!(chosen(0.21, 0), [0, 1].into());
    assert_eq!(chosen(0.79, 0), [0, 1].into());
    assert_eq!(chosen(0.81, 0), [0, 1, 2].into());
    assert_eq!(chosen(0.91, 0), [0, 1, 2, 3].into());
    // Judged after the other filters: of the first two alone the expected surprise is 0.56, the first's 0.29.
    assert_eq!(chosen(0.19, 2), [0].into());
    for off in [1.0, 0.0, -1.0, 2.0, f32::NAN] {
        assert_eq!(chosen(off, 0).len(), 4);
    }
}

#[test]
fn a_bias_of_100_forces_and_one_outside_the_vocabulary_does_nothing() {
    let logits: Vec<f32> = (0..500).map(|index| (index % 37) as f32 * 0.5).collect();
    let logit_bias = [(3, 100.0), (500, 100.0), (-1, 100.0)].into();
    let params = SamplingParams { logit_bias, ..SamplingParams::default() };
    assert!((0..200).all(|at| choose(&logits, &params, at) == Some(3)));
}

#[test]
fn draws_follow_the_probabilities() {
    let logits: Vec<f32> = [0.4f32, 0.3, 0.2, 0.1].iter().map(|p| p.ln()).collect();
    let mut counts = [0u32; 4];
    for position in 0..20_000 {
        counts[choose(&logits, &SamplingParams::default(), position).unwrap() as usize] += 1;
    }
    for (count, expected) in counts.into_iter().zip([8000.0, 6000.0, 4000.0, 2000.0]) {
        // About five standard deviations.
        assert!((f64::from(count) - expected).abs() < 5.0 * f64::sqrt(expected), "{counts:?}");
    }
}

/// Pearson's statistic of draws over 32 equal bins.
fn chi_square(draws: impl Iterator<Item = f64>) -> f64 {
    let mut bins = [0.0f64; 32];
    let mut total = 0.0;
    for draw in draws {
        assert!((0.0..1.0).contains(&draw));
        bins[(draw * 32.0) as usize] += 1.0;
        total += 1.0;
    }
    let expected = total / 32.0;
    bins.iter().map(|count| (count - expected).powi(2) / expected).sum()
}

#[test]
fn draws_are_uniform_along_positions_and_along_seeds() {
    // 31 degrees of freedom: above 75 with a probability of about 2e-5, and the draws never change.
    for fixed in 0..20 {
        assert!(chi_square((0..20_000).map(|position| uniform(fixed, position))) < 75.0);
        assert!(chi_square((0..20_000).map(|seed| uniform(seed, fixed))) < 75.0);
    }
}

#[test]
fn draws_stay_what_they_were() {
    // A seed that a caller keeps must give the same answer after a dependency's update.
    let draws = [uniform(0, 0), uniform(0, 1), uniform(42, 7), uniform(u64::MAX, u64::MAX)];
    assert_eq!(draws, [0.7090754154265618, 0.755531016687046, 0.1285064537566929, 0.20686705120748516]);
}

#[test]
fn log_totals_are_those_of_all_numbers() {
    let logits = [1.0, 3.0, 2.96875, f32::NAN, f32::NEG_INFINITY];
    let total = 1f64.exp() + 3f64.exp() + 2.96875f64.exp();
    assert!((log_total(&logits) - total.ln()).abs() < 1e-12);
    // The plain sum would overflow here.
    assert!((log_total(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-9);
    assert_eq!(log_total(&[f32::NAN]), f64::NEG_INFINITY);
    assert_eq!(log_total(&[]), f64::NEG_INFINITY);
}
