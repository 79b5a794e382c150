//! Patterns of repository names: `*` stands for any run of characters without `/`, `**` for any run at all.

use std::str::FromStr;

use crate::oci::RepositoryName;

/// A parsed pattern such as `team/*` or `**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// `*`
    InComponent,
    /// `**`
    Anything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern is a repository name in which * stands for a run without /, and ** for any run")]
pub struct PatternError;

impl Pattern {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn matches(&self, repository: &RepositoryName) -> bool {
        self.matches_str(repository.as_str())
    }

    /// Each request asks, and most patterns are one of these.
    fn matches_str(&self, text: &str) -> bool {
        match self.pieces.as_slice() {
            [Piece::Anything] => true,
            [Piece::Literal(whole)] => text == whole,
            [Piece::Literal(start), Piece::Anything] => text.starts_with(start.as_str()),
            _ => self.walk(text),
        }
    }

    /// Walks the pieces with the set of positions that they can have reached: time is pieces x length, whatever the pattern.
    fn walk(&self, text: &str) -> bool {
        let (mut reachable, length) = (vec![false; text.len() + 1], text.len());
        reachable[0] = true;
        for piece in &self.pieces {
            let mut next = vec![false; length + 1];
            match piece {
                Piece::Literal(literal) => {
                    for at in (0..=length).filter(|at| reachable[*at] && text[*at..].starts_with(literal.as_str())) {
                        next[at + literal.len()] = true;
                    }
                }
                Piece::InComponent | Piece::Anything => {
                    let mut open = false;
                    for at in 0..=length {
                        let crossed = at > 0 && *piece == Piece::InComponent && text.as_bytes()[at - 1] == b'/';
                        open = (open && !crossed) || reachable[at];
                        next[at] = open;
                    }
                }
            }
            reachable = next;
        }
        reachable[length]
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        // With its wildcards replaced by letters a pattern must be a name.
        if text.contains("***") || text.replace('*', "a").parse::<RepositoryName>().is_err() {
            return Err(PatternError);
        }
        let mut pieces = Vec::new();
        for (index, between) in text.split("**").enumerate() {
            if index > 0 {
                pieces.push(Piece::Anything);
            }
            for (index, literal) in between.split('*').enumerate() {
                if index > 0 {
                    pieces.push(Piece::InComponent);
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(literal.to_owned()));
                }
            }
        }
        Ok(Pattern { text: text.to_owned(), pieces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_runs() {
        for (pattern, name, matches) in [
            ("**", "a/b/c", true),
            ("*", "a", true),
            ("*", "a/b", false),
            ("team/*", "team/a", true),
            ("team/*", "team/a/b", false),
            ("team/**", "team/a/b", true),
            ("team/**", "team", false),
            ("team/**", "teams/a", false),
            ("*/base-*", "x/base-image", true),
            ("*/base-*", "x/y/base-image", false),
            ("**/app", "a/b/app", true),
            ("library/alpine", "library/alpine", true),
            ("library/alpine", "library/alpin", false),
            ("a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaac", false),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!((parsed.matches_str(name), parsed.walk(name)), (matches, matches), "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "***", "Team/*", "/a", "a//b", "../*"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
