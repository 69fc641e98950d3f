//! What a caller selects by: a whole text, or how one begins.

/// A whole text, or its beginning and `*`.
pub enum Pattern {
    Any,
    Whole(String),
    Beginning(String),
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        match (text, text.strip_suffix('*')) {
            ("", _) => Self::Any,
            (_, Some(beginning)) => Self::Beginning(beginning.to_owned()),
            (whole, None) => Self::Whole(whole.to_owned()),
        }
    }

    pub fn matches(&self, text: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Whole(whole) => text == Some(whole),
            Self::Beginning(beginning) => text.is_some_and(|text| text.starts_with(beginning)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_stands_for_the_rest() {
        for (pattern, text, matches) in [
            ("", None, true),
            ("", Some("a"), true),
            ("a", Some("a"), true),
            ("a", Some("ab"), false),
            ("a", None, false),
            ("a*", Some("ab"), true),
            ("a*", Some("b"), false),
            ("*", Some("b"), true),
            ("*", None, false),
            ("*a", Some("ba"), false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), matches, "{pattern} {text:?}");
        }
    }
}
