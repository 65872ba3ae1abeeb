//! Texts with wildcards, and texts in any case.

/// A text in which each `*` stands for any text, also none. `\*` and `\\` stand for themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wildcard {
    /// What a text starts with; if no wildcard follows, the whole of it.
    head: Box<str>,
    /// What then comes, each after its wildcard; the last ends the text.
    rest: Vec<Box<str>>,
}

impl Wildcard {
    /// Or why it is refused.
    pub(super) fn parse(pattern: &str) -> Result<Self, &'static str> {
        let mut parts = vec![String::new()];
        let mut after_wildcard = false;
        let mut chars = pattern.chars();
        while let Some(next) = chars.next() {
            let literal = match next {
                '*' if after_wildcard => return Err("has two `*` in a row: write one"),
                '*' => {
                    after_wildcard = true;
                    parts.push(String::new());
                    continue;
                }
                '\\' => chars.next().filter(|c| matches!(c, '*' | '\\')).ok_or(ESCAPE)?,
                other => other,
            };
            after_wildcard = false;
            parts.last_mut().expect("starts with one part and only grows").push(literal);
        }
        let mut parts = parts.into_iter().map(String::into_boxed_str);
        Ok(Self { head: parts.next().unwrap_or_default(), rest: parts.collect() })
    }

    /// In time linear in the text: a part taken at its first place leaves the most for those that follow.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some((tail, middle)) = self.rest.split_last() else { return *text == *self.head };
        let Some(mut left) = text.strip_prefix(&*self.head) else { return false };
        for part in middle {
            let Some((_, after)) = left.split_once(&**part) else { return false };
            left = after;
        }
        left.ends_with(&**tail)
    }
}

const ESCAPE: &str = r"may have `\` only before `*` or `\`: write `\\` for a backslash";

/// A text in any case, letter by letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AnyCase(Box<[Letter]>);

/// A letter as written, in lower case and in upper case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Letter {
    /// Its forms that are one character.
    short: [char; 3],
    /// Whether it has another: `ß` is `SS` in upper case.
    has_long: bool,
}

impl AnyCase {
    pub(super) fn new(text: &str) -> Self {
        Self(text.chars().map(Letter::new).collect())
    }

    pub(super) fn equals(&self, text: &str) -> bool {
        self.0.iter().try_fold(text, |left, letter| letter.strip_first(left)).is_some_and(str::is_empty)
    }

    pub(super) fn starts(&self, text: &str) -> bool {
        self.0.iter().try_fold(text, |left, letter| letter.strip_first(left)).is_some()
    }

    pub(super) fn ends(&self, text: &str) -> bool {
        self.0.iter().rev().try_fold(text, |left, letter| letter.strip_last(left)).is_some()
    }
}

impl Letter {
    fn new(written: char) -> Self {
        let (mut lower, mut upper) = (written.to_lowercase(), written.to_uppercase());
        let lower = lower.next().filter(|_| lower.len() == 0);
        let upper = upper.next().filter(|_| upper.len() == 0);
        let short = [written, lower.unwrap_or(written), upper.unwrap_or(written)];
        Self { short, has_long: lower.is_none() || upper.is_none() }
    }

    fn strip_first(self, text: &str) -> Option<&str> {
        let mut chars = text.chars();
        match chars.next() {
            Some(first) if self.short.contains(&first) => Some(chars.as_str()),
            _ if self.has_long => {
                let [written, ..] = self.short;
                let lower = written.to_lowercase().try_fold(text, str::strip_prefix);
                lower.or_else(|| written.to_uppercase().try_fold(text, str::strip_prefix))
            }
            _ => None,
        }
    }

    fn strip_last(self, text: &str) -> Option<&str> {
        let mut chars = text.chars();
        match chars.next_back() {
            Some(last) if self.short.contains(&last) => Some(chars.as_str()),
            _ if self.has_long => {
                let [written, ..] = self.short;
                let lower = written.to_lowercase().rev().try_fold(text, str::strip_suffix);
                lower.or_else(|| written.to_uppercase().rev().try_fold(text, str::strip_suffix))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards_as_the_ruler_takes_them() {
        for (pattern, expected) in [
            (r"", Ok(1)),
            (r"a*b*c", Ok(3)),
            (r"\*\\", Ok(1)),
            (r"\**", Ok(2)),
            (r"*\**", Ok(3)),
            (r"**", Err("has two `*` in a row: write one")),
            (r"a**b", Err("has two `*` in a row: write one")),
            (r"a\b", Err(ESCAPE)),
            (r"a\", Err(ESCAPE)),
        ] {
            assert_eq!(Wildcard::parse(pattern).map(|wildcard| wildcard.rest.len() + 1), expected, "{pattern}");
        }
    }

    #[test]
    fn parts_between_wildcards_do_not_overlap() {
        for (pattern, text, expected) in [
            ("ab*ba", "aba", false),
            ("ab*ba", "abba", true),
            ("a*a*a", "aa", false),
            ("a*a*a", "aaa", true),
            ("*ab*ab*", "aab", false),
            ("*ab*ab*", "aababa", true),
            ("*é*", "\u{65}\u{301}", false),
        ] {
            assert_eq!(Wildcard::parse(pattern).unwrap().matches(text), expected, "{pattern}: {text}");
        }
    }

    #[test]
    fn a_letter_is_taken_in_both_its_cases_also_where_these_are_longer() {
        for (wanted, text, expected) in [
            ("straße", "STRASSE", true),
            ("straße", "Straße", true),
            ("STRASSE", "straße", false), // as in the Ruler: the letters of the pattern have cases, not the text's
            ("Σ", "σ", true),
            ("Σ", "ς", false),
            ("İ", "i\u{307}", true),
            ("k", "\u{212a}", false), // the Kelvin sign
            ("😀a", "😀A", true),
            ("ǅ", "ǆ", true),
            ("ǅ", "ǅ", true),
            ("ab", "abc", false),
            ("abc", "ab", false),
            ("", "", true),
        ] {
            assert_eq!(AnyCase::new(wanted).equals(text), expected, "{wanted}: {text}");
            assert_eq!(
                AnyCase::new(wanted).starts(&format!("{text}|")),
                expected || wanted == "ab",
                "{wanted}: {text}|"
            );
            assert_eq!(AnyCase::new(wanted).ends(&format!("|{text}")), expected, "{wanted}: |{text}");
        }
    }

    /// All ways to give each wildcard some text.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
                text.first() == Some(literal) && naive(rest, &text[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn a_wildcard_agrees_with_trying_all(pattern in r"(\*?(a|b|é|\\\*|\\\\)){0,6}\*?", text in r"[abé*\\]{0,8}") {
            let [as_chars, text_chars] = [&pattern, &text].map(|s| s.chars().collect::<Vec<_>>());
            prop_assert_eq!(Wildcard::parse(&pattern).unwrap().matches(&text), naive(&as_chars, &text_chars));
        }

        #[test]
        fn a_text_equals_itself_in_either_case(text in ".{0,8}") {
            let any_case = AnyCase::new(&text);
            prop_assert!(any_case.equals(&text) && any_case.starts(&text) && any_case.ends(&text));
            let upper: String = text.chars().flat_map(char::to_uppercase).collect();
            let lower: String = text.chars().flat_map(char::to_lowercase).collect();
            prop_assert!(any_case.equals(&upper) && any_case.starts(&upper) && any_case.ends(&upper), "{}", upper);
            prop_assert!(any_case.equals(&lower) && any_case.starts(&lower) && any_case.ends(&lower), "{}", lower);
        }
    }
}
