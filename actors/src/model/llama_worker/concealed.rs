//! Problems as those hear them who do not administer the server: without the paths of its files.

/// The replacement of a path.
const CONCEALED: &str = "…";

/// `text` without the `known` paths, which may have spaces, and without any other word that looks like one.
#[must_use]
pub fn without_paths(text: &str, known: &[&str]) -> String {
    let mut known: Vec<&str> = known.iter().copied().filter(|path| !path.is_empty()).collect();
    // One may be the beginning of another.
    known.sort_by_key(|path| std::cmp::Reverse(path.len()));
    let text = known.into_iter().fold(text.to_owned(), |text, path| text.replace(path, CONCEALED));
    let concealed = |word: &str| {
        if !word.contains(['/', '\\']) {
            return word.to_owned();
        }
        let is_around = |c: char| matches!(c, '(' | ')' | ',' | ':' | ';' | '\'' | '"' | '`' | '\n');
        let inner = word.trim_matches(is_around);
        if inner.is_empty() { CONCEALED.to_owned() } else { word.replacen(inner, CONCEALED, 1) }
    };
    text.split_inclusive(char::is_whitespace)
        .map(|word| {
            let end = word.trim_end();
            concealed(end) + &word[end.len()..]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_left_out() {
        let known = ["models/my model.gguf", "/srv/jan", "/srv/jan/bin/jan-server", ""];
        for (text, expected) in [
            ("there is no file models/my model.gguf", "there is no file …"),
            ("cannot start /srv/jan/bin/jan-server: denied", "cannot start …: denied"),
            (
                "cannot unpack the bundled model into /srv/jan/models: full",
                "cannot unpack the bundled model into …: full",
            ),
            ("cannot load it ('/home/ann/x.gguf', see ../log)", "cannot load it ('…', see …)"),
            ("set engine.gpu_layers to 0\nor less", "set engine.gpu_layers to 0\nor less"),
            (
                "its worker keeps dying; the last time: signal 9",
                "its worker keeps dying; the last time: signal 9",
            ),
        ] {
            assert_eq!(without_paths(text, &known), expected);
        }
    }

    proptest! {
        #[test]
        fn no_slash_is_left(text in "[a /:'.\n\\\\(]{0,40}", known in "[a/ ]{0,5}") {
            let shown = without_paths(&text, &[&known]);
            prop_assert!(!shown.contains('/'), "{}", shown);
        }
    }
}
