use proptest::prelude::*;

use super::*;

/// The definition: decode everything, cut before the earliest stop text.
fn whole(bytes: &[u8], stops: &[String]) -> (String, bool) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    match stops.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min() {
        Some(cut) => (text[..cut].to_owned(), true),
        None => (text, false),
    }
}

fn push_all(pieces: &[&[u8]], stops: &[String]) -> Vec<Push> {
    let mut assembler = TextAssembler::new(stops);
    let mut pushes: Vec<Push> = pieces.iter().map(|piece| assembler.push(piece)).collect();
    pushes.push(assembler.finish());
    pushes
}

fn texts(pieces: &[&[u8]], stops: &[&str]) -> Vec<String> {
    let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
    push_all(pieces, &stops).into_iter().map(|push| push.text).collect()
}

#[test]
fn characters_are_never_split() {
    assert_eq!(texts(&[b"a\xe2", b"\x82", b"\xac!"], &[]), ["a", "", "€!", ""]);
    assert_eq!(texts(&[b"\xf0\x9f", b"\x98"], &[]), ["", "", "\u{fffd}"]);
    assert_eq!(texts(&[b"\xe2\x82", b"A", b"\xff"], &[]), ["", "\u{fffd}A", "\u{fffd}", ""]);
}

#[test]
fn a_stop_text_over_several_pieces_is_not_leaked() {
    assert_eq!(texts(&[b"one<|", b"e", b"nd|>two"], &["<|end|>"]), ["one", "", "", ""]);
    assert_eq!(texts(&[b"one<|", b"e", b"xd"], &["<|end|>"]), ["one", "", "<|exd", ""]);
    assert_eq!(texts(&[b"one<|", b"e"], &["<|end|>"]), ["one", "", "<|e"]);
}

#[test]
fn a_stop_text_that_repeats_itself_is_found_where_it_begins() {
    assert_eq!(texts(&[b"aa", b"ab"], &["aab"]), ["", "a", ""]);
    assert_eq!(texts(&[b"abab", b"abac"], &["ababac"]), ["", "ab", ""]);
}

#[test]
fn the_earliest_beginning_counts_even_if_it_completes_later() {
    let stops = ["abcd".to_owned(), "bc".to_owned()];
    let mut assembler = TextAssembler::new(&stops);
    assert_eq!(assembler.push(b"xabc"), Push { text: "x".into(), stopped: false });
    assert_eq!(assembler.clone().push(b"d"), Push { text: "".into(), stopped: true });
    assert_eq!(assembler.clone().push(b"e"), Push { text: "a".into(), stopped: true });
    assert_eq!(assembler.finish(), Push { text: "a".into(), stopped: true });
    assert_eq!(assembler.push(b"more"), Push { text: "".into(), stopped: true });
}

#[test]
fn after_the_end_nothing_is_released() {
    let mut assembler = TextAssembler::new(&["stop"]);
    assert_eq!(assembler.push("né stop \u{20ac}".as_bytes()), Push { text: "né ".into(), stopped: true });
    assert_eq!(assembler.push(b"\xe2"), Push { text: "".into(), stopped: true });
    assert_eq!(assembler.finish(), Push { text: "".into(), stopped: true });
}

/// Bytes with few different values, so that stop texts, multi-byte characters and broken ones all occur often.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let fragments = prop_oneof![
        6 => prop::sample::select(vec![&b"a"[..], b"b", b"ab", b"ba", b"c", "é".as_bytes(), "€".as_bytes()]),
        1 => prop::sample::select(vec![&b"\xe2"[..], b"\x82", b"\xac", b"\xff", b"\xf0\x9f", "\u{fffd}".as_bytes()]),
    ];
    prop_oneof![
        prop::collection::vec(fragments, 0..60).prop_map(|fragments| fragments.concat()),
        prop::collection::vec(any::<u8>(), 0..60),
    ]
}

fn any_stops() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abcé€\u{fffd}]{0,6}", 0..5)
}

/// Cuts `bytes` into pieces; empty pieces too.
fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_give_what_the_whole_gives(
        bytes in any_bytes(),
        stops in any_stops(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let pieces = split(&bytes, &cuts);
        let pushes = push_all(&pieces, &stops);
        let text: String = pushes.iter().map(|push| push.text.as_str()).collect();
        let stopped = pushes.last().expect("the end is always there").stopped;
        prop_assert_eq!((text, stopped), whole(&bytes, &stops));
        // `stopped` never reverts to `false`, and nothing follows it.
        for pair in pushes.windows(2) {
            prop_assert!(!pair[0].stopped || (pair[1].stopped && pair[1].text.is_empty()));
        }
        prop_assert_eq!(pushes, push_all(&pieces, &stops));
    }

    /// A stop text counts where all of it is in one watched run of pieces.
    #[test]
    fn stop_texts_count_in_watched_runs_alone(
        runs in prop::collection::vec(("[ab]{1,6}", any::<bool>()), 0..8),
        stops in prop::collection::vec("[ab]{1,4}", 0..3),
        by_letters: bool,
    ) {
        let mut assembler = TextAssembler::new(&stops);
        let mut text = String::new();
        for (run, watch) in &runs {
            assembler.watch(*watch);
            for piece in run.as_bytes().chunks(if by_letters { 1 } else { run.len() }) {
                text.push_str(&assembler.push(piece).text);
            }
        }
        let mut wanted = String::new();
        let mut stopped = false;
        // Neighbouring runs of a kind are one: a later run can complete a stop text that begins before another one.
        for run in runs.chunk_by(|one, next| one.1 == next.1) {
            let joined: String = run.iter().map(|(text, _)| text.as_str()).collect();
            let cut = stops.iter().filter(|_| run[0].1).filter_map(|stop| joined.find(stop.as_str())).min();
            wanted.push_str(&joined[..cut.unwrap_or(joined.len())]);
            stopped = cut.is_some();
            if stopped {
                break;
            }
        }
        let last = assembler.finish();
        text.push_str(&last.text);
        prop_assert_eq!((text, last.stopped), (wanted, stopped));
    }

    #[test]
    fn at_any_moment_the_released_text_begins_the_answer_and_little_is_held(
        bytes in any_bytes(),
        rest in any_bytes(),
        stops in any_stops(),
    ) {
        let mut assembler = TextAssembler::new(&stops);
        let mut text = String::new();
        for piece in bytes.chunks(1) {
            text.push_str(&assembler.push(piece).text);
            let longest = stops.iter().map(String::len).max().unwrap_or(0);
            prop_assert!(assembler.held.len() <= longest);
            prop_assert!(assembler.incomplete.len() <= 3);
        }
        // The released text is right for every continuation of the answer.
        let all = [bytes, rest].concat();
        prop_assert!(whole(&all, &stops).0.starts_with(&text));
    }
}
