//! Lines of a configuration into sections and words, as HAProxy itself splits them.

/// A section: its kind (`listen`), its name, its lines as words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// The word that opens it.
    pub(super) kind: String,
    /// What follows on that line.
    pub(super) name: String,
    /// The lines after it; an error for one that cannot be split.
    pub(super) lines: Vec<Result<Vec<String>, String>>,
}

/// Words that open a section.
const KINDS: [&str; 13] = [
    "global",
    "defaults",
    "listen",
    "frontend",
    "backend",
    "peers",
    "userlist",
    "resolvers",
    "mailers",
    "ring",
    "program",
    "cache",
    "http-errors",
];

/// Splits elements, each of which may hold several lines, into sections. Lines before the first section are
/// one without a kind.
pub(super) fn sections<'a>(elements: impl IntoIterator<Item = &'a str>) -> Vec<Section> {
    let mut all = vec![Section::default()];
    for line in elements.into_iter().flat_map(|element| element.split(['\n', '\r'])) {
        let words = words(line);
        match &words {
            Ok(words) if words.is_empty() => continue,
            Ok(words) if words.first().is_some_and(|w| KINDS.contains(&w.as_str())) => {
                let (kind, name) = (words[0].clone(), words.get(1..).unwrap_or_default().join(" "));
                all.push(Section { kind, name, lines: Vec::new() });
                continue;
            }
            _ => {}
        }
        if let Some(section) = all.last_mut() {
            section.lines.push(words);
        }
    }
    all.retain(|section| !section.kind.is_empty() || !section.lines.is_empty());
    all
}

/// Splits a line: a backslash takes the meaning of what follows it, quotes keep blanks, `#` begins a
/// comment.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
    let shown = || line.trim().chars().take(60).collect::<String>();
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let next = chars.next().ok_or_else(|| format!("line {:?} ends in a backslash", shown()))?;
                word.get_or_insert_default().push(next);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("line {:?} has a quote that nothing closes", shown()));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_the_program_does() {
        for (line, expected) in [
            ("\t stats realm   Haproxy\\ Statistics", &["stats", "realm", "Haproxy Statistics"][..]),
            ("a \"b c\" 'd \\ e'f # g", &["a", "b c", "d \\ ef"]),
            ("# only this", &[]),
            ("a\\#b \"\"", &["a#b", ""]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert!(words("a \"b").unwrap_err().contains("quote"));
        assert!(words("a\\").unwrap_err().contains("backslash"));
    }

    #[test]
    fn elements_may_hold_several_lines() {
        let all =
            sections(["global", "\tmaxconn 4096", "\t ", "\nlisten a\n\tbind 1.2.3.4:80\n", "\tmode http"]);
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].kind.as_str(), all[1].name.as_str(), all[1].lines.len()), ("listen", "a", 2));
    }
}
