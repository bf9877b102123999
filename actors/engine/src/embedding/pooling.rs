//! Pooling of the embeddings of tokens into the one of their text.

/// The tokens' embeddings that make the text's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all.
    Mean,
    /// The first token's, which BERT calls CLS.
    Cls,
    /// The last token's.
    Last,
}

impl Pooling {
    /// Returns the pooling as it is set (`mean`, `cls`, `last`), else as the GGUF's `pooling_type` has it (llama.cpp's numbers),
    /// else the mean: the last token of a text describes the continuation rather than the text, unless the model was trained for
    /// that.
    pub fn choose(setting: &str, metadata: Option<&str>) -> Self {
        match (setting, metadata) {
            ("mean", _) => Self::Mean,
            ("cls", _) => Self::Cls,
            ("last", _) => Self::Last,
            (_, Some("2")) => Self::Cls,
            (_, Some("3")) => Self::Last,
            _ => Self::Mean,
        }
    }
}

/// Takes a text's tokens in, one after the other.
#[derive(Clone, Debug)]
pub struct Pool {
    pooling: Pooling,
    sum: Vec<f64>,
    tokens: u32,
}

impl Pool {
    /// An empty one.
    pub fn new(pooling: Pooling) -> Self {
        Self { pooling, sum: Vec::new(), tokens: 0 }
    }

    /// Takes in the next token's embedding; all are of one length.
    pub fn push(&mut self, row: &[f32]) {
        let first = self.tokens == 0;
        self.tokens += 1;
        match self.pooling {
            Pooling::Mean if !first => {
                self.sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            Pooling::Cls if !first => {}
            Pooling::Mean | Pooling::Cls | Pooling::Last => {
                self.sum.clear();
                self.sum.extend(row.iter().copied().map(f64::from));
            }
        }
    }

    /// The text's embedding, cut to so many dimensions and then of length 1. `None` where there is none of that
    /// length: a number is not finite. All zeros stay zeros.
    pub fn finish(self, dimensions: Option<u32>) -> Option<Vec<f32>> {
        let mut vector = self.sum;
        if let Some(dimensions) = dimensions {
            vector.truncate(dimensions as usize);
        }
        // A mean is a sum of another length.
        let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 1.0 };
        let vector: Vec<f32> = vector.into_iter().map(|value| (value * scale) as f32).collect();
        vector.iter().all(|value| value.is_finite()).then_some(vector)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pooled(pooling: Pooling, rows: &[Vec<f32>], dimensions: Option<u32>) -> Vec<f32> {
        let mut pool = Pool::new(pooling);
        rows.iter().for_each(|row| pool.push(row));
        pool.finish(dimensions).unwrap()
    }

    #[test]
    fn each_kind_takes_its_tokens() {
        let rows = [vec![1.0, 0.0], vec![0.0, 0.5], vec![0.0, 2.5]];
        assert_eq!(pooled(Pooling::Cls, &rows, None), [1.0, 0.0]);
        assert_eq!(pooled(Pooling::Last, &rows, None), [0.0, 1.0]);
        let tenth = 1.0 / 10f32.sqrt();
        let mean = pooled(Pooling::Mean, &rows, None);
        assert!((mean[0] - tenth).abs() < 1e-6 && (mean[1] - 3.0 * tenth).abs() < 1e-6, "{mean:?}");
        assert_eq!(pooled(Pooling::Mean, &rows, Some(1)), [1.0]);
    }

    #[test]
    fn what_is_set_comes_before_what_the_file_says() {
        assert_eq!(Pooling::choose("cls", Some("3")), Pooling::Cls);
        assert_eq!(Pooling::choose("mean", Some("3")), Pooling::Mean);
        assert_eq!(Pooling::choose("", Some("1")), Pooling::Mean);
        assert_eq!(Pooling::choose("", Some("2")), Pooling::Cls);
        assert_eq!(Pooling::choose("", Some("3")), Pooling::Last);
        for unknown in [None, Some("0"), Some("4"), Some("mean")] {
            assert_eq!(Pooling::choose("", unknown), Pooling::Mean);
        }
    }

    #[test]
    fn what_is_no_number_is_told() {
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut pool = Pool::new(Pooling::Mean);
            pool.push(&[1.0, wrong]);
            assert_eq!(pool.finish(None), None);
        }
        assert_eq!(pooled(Pooling::Mean, &[vec![0.0, 0.0]], None), [0.0, 0.0]);
    }

    fn rows() -> impl Strategy<Value = Vec<Vec<f32>>> {
        (1usize..20).prop_flat_map(|width| {
            prop::collection::vec(prop::collection::vec(-1e4f32..1e4, width..=width), 1..30)
        })
    }

    proptest! {
        #[test]
        fn vectors_are_as_long_as_asked_for_and_of_length_1(rows in rows(), cut in 1u32..25) {
            for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
                let whole = pooled(pooling, &rows, None);
                let short = pooled(pooling, &rows, Some(cut));
                prop_assert_eq!(whole.len(), rows[0].len());
                prop_assert_eq!(short.len(), rows[0].len().min(cut as usize));
                for vector in [&whole, &short] {
                    let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                    prop_assert!(length == 0.0 || (length - 1.0).abs() < 1e-5, "{}", length);
                }
                // A shorter one points where the longer one does.
                let ratio = |a: f32, b: f32| f64::from(a) * f64::from(b);
                for i in 0..short.len() {
                    let off = ratio(short[i], whole[0]) - ratio(short[0], whole[i]);
                    prop_assert!(off.abs() < 1e-5, "{}", off);
                }
            }
        }
    }
}
