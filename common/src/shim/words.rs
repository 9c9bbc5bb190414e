//! Splits the command string of an SSH exec request into words, as a shell would, but for everything
//! that makes a shell do more than start one command: that is refused.

/// Longest command string in bytes: certificates come as arguments.
pub(super) const LIMIT: usize = 1024 * 1024;

/// Why a command string was not split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// A sign that would make a shell start more than one command or open a file.
    #[error("{0:?} has no meaning here")]
    Operator(char),
    /// A quote without its end.
    #[error("a quote is not closed")]
    Quote,
    /// The string is longer than [`LIMIT`].
    #[error("the command is longer than {LIMIT} bytes")]
    TooLong,
}

/// Splits a command string at blanks. Single and double quotes and backslashes protect what is in
/// them; `$`, `*` and `?` stay as they are.
///
/// # Errors
/// Where a quote is open at the end, or an unprotected sign of the shell is met.
pub(super) fn split(text: &str) -> Result<Vec<String>, WordsError> {
    if text.len() > LIMIT {
        return Err(WordsError::TooLong);
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => quoted(&mut rest, '\'', word.get_or_insert_default())?,
            '"' => quoted(&mut rest, '"', word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(rest.next().ok_or(WordsError::Quote)?),
            '|' | ';' | '&' | '<' | '>' | '(' | ')' | '`' | '\n' | '\r' | '\0' => {
                return Err(WordsError::Operator(c));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Takes what is between two quotes.
fn quoted(rest: &mut std::str::Chars<'_>, end: char, word: &mut String) -> Result<(), WordsError> {
    while let Some(c) = rest.next() {
        match c {
            c if c == end => return Ok(()),
            '\\' if end == '"' => match rest.next().ok_or(WordsError::Quote)? {
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                '\n' => {}
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
    Err(WordsError::Quote)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_and_quotes() {
        let words = |text| split(text).unwrap();
        assert_eq!(
            words("/opt/cloud/bin/netusage.sh  -g\t-l 192.0.2.1 "),
            ["/opt/cloud/bin/netusage.sh", "-g", "-l", "192.0.2.1"]
        );
        assert_eq!(
            words(r#"a "b c" 'd "e' f\ g "h\"i\n" "" x''y"#),
            ["a", "b c", "d \"e", "f g", "h\"i\\n", "", "xy"]
        );
        assert_eq!(words("patched.sh /opt/cloud/bin/keystore*"), ["patched.sh", "/opt/cloud/bin/keystore*"]);
        assert!(words("  ").is_empty());
    }

    #[test]
    fn a_shell_is_not_to_be_had() {
        for text in ["a; b", "a|b", "a && b", "a > /etc/passwd", "$(a)", "`a`", "a\nb", "a &"] {
            assert!(matches!(split(text), Err(WordsError::Operator(_))), "{text}");
        }
        assert_eq!(split("a 'b;c' \"d|e\" f\\;g").unwrap(), ["a", "b;c", "d|e", "f;g"]);
        assert_eq!(split("a 'b"), Err(WordsError::Quote));
        assert_eq!(split("a\\"), Err(WordsError::Quote));
    }

    proptest! {
        #[test]
        fn any_text_is_split_or_refused(text in any::<String>()) {
            let _ = split(&text);
        }

        #[test]
        fn what_is_quoted_comes_back(words in proptest::collection::vec("[^'\\x00]{0,12}", 0..6)) {
            let text: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
            prop_assert_eq!(split(&text.join(" ")).unwrap(), words);
        }
    }
}
