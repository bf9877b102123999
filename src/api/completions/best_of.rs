//! `best_of`: selection of the answers to return.

use super::response::Answer;

/// Returns, of every `generated` answers, the `returned` ones with the highest mean log-probability, best first. If
/// none is left out, all keep their order.
pub fn of_each(mut answers: Vec<Answer>, generated: usize, returned: usize) -> Vec<Answer> {
    if generated <= returned {
        return answers;
    }
    let mut best = Vec::with_capacity(answers.len() / generated * returned);
    while !answers.is_empty() {
        let rest = answers.split_off(generated.min(answers.len()));
        let mut of_prompt = std::mem::replace(&mut answers, rest);
        // The sort is stable: among equal ones the first comes first.
        of_prompt.sort_by(|a, b| b.likelihood().total_cmp(&a.likelihood()));
        of_prompt.truncate(returned);
        best.append(&mut of_prompt);
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Returned answers are at least as likely as those left out, in order, for each prompt.
        #[test]
        fn the_best_are_returned(
            scores in prop::collection::vec(prop::collection::vec(-9.0f64..0.0, 5), 0..4),
            returned in 1usize..6,
        ) {
            let answers = scores.iter().flatten().map(|&score| Answer::scored(score)).collect();
            let best = of_each(answers, 5, returned);
            prop_assert_eq!(best.len(), scores.len() * returned);
            for (best, scores) in best.chunks(returned).zip(&scores) {
                let mut wanted = scores.clone();
                if returned < 5 {
                    wanted.sort_by(|a, b| b.total_cmp(a));
                }
                wanted.truncate(returned);
                prop_assert_eq!(best.iter().map(Answer::likelihood).collect::<Vec<_>>(), wanted);
            }
        }
    }
}
