//! The log-probabilities of an answer and its text, from the engine to where they leave the server.

use jan_protocol::logprob_buffer::HeldLogprobs;
use jan_protocol::report::PlacedLogprob;
use jan_protocol::types::{Candidate, TokenLogprob};
use proptest::prelude::*;

use crate::decode::text_assembler::TextAssembler;

/// Runs pieces through the engine's text assembler and the server's buffer.
fn run(pieces: &[Vec<u8>], stop: &[String]) -> (String, bool, Vec<Vec<usize>>) {
    let mut assembler = TextAssembler::new(stop);
    let mut held = HeldLogprobs::default();
    let (mut text, mut left) = (String::new(), Vec::new());
    let mut stopped = false;
    let numbers = |released: Vec<TokenLogprob>| released.iter().map(|l| l.chosen.token as usize).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let (text_start, text_offset) = (assembler.end() as u64, assembler.characters() as u64);
        let push = assembler.push(piece);
        let placed = PlacedLogprob {
            chosen: Candidate { token: number as i32, bytes: piece.clone(), logprob: 0.0 },
            top: Vec::new(),
            text_start,
            text_end: if push.stopped { u64::MAX } else { assembler.end() as u64 },
            text_offset,
        };
        left.push(numbers(held.push(&push.text, [placed])));
        text.push_str(&push.text);
        stopped = push.stopped;
        if stopped {
            break;
        }
    }
    let last = assembler.finish();
    left.push(numbers(held.finish(&last.text, last.stopped)));
    text.push_str(&last.text);
    (text, stopped || last.stopped, left)
}

proptest! {
    /// Without a stop text every token has its log-probability once, in order. With one, those of the tokens whose
    /// text begins before the cut, and no other.
    #[test]
    fn every_token_of_the_text_has_one(
        pieces in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0xC3), Just(0xA9), any::<u8>()], 1..4), 0..30),
        stop in prop::option::of("[ab]{1,4}"),
    ) {
        let stop = Vec::from_iter(stop);
        let (text, stopped, left) = run(&pieces, &stop);
        let all: Vec<usize> = left.concat();
        prop_assert!(all.iter().copied().eq(0..all.len()), "in order, none twice: {:?}", all);
        if stopped {
            // The position of each piece's text in the whole decoded text.
            let mut assembler = TextAssembler::new::<String>(&[]);
            let begins: Vec<usize> = pieces.iter().map(|piece| { let begin = assembler.end(); assembler.push(piece); begin }).collect();
            let wanted = begins.iter().filter(|begin| **begin < text.len()).count();
            prop_assert_eq!(all.len(), wanted);
        } else {
            prop_assert_eq!(all.len(), pieces.len());
        }
    }
}

#[test]
fn they_wait_for_their_text() {
    let (text, _, left) = run(&[b"a".to_vec(), b"ST".to_vec(), b"x".to_vec()], &["STOP".to_owned()]);
    assert_eq!(text, "aSTx");
    assert_eq!(left, [vec![0], vec![], vec![1, 2], vec![]]);
}
