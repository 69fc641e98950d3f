//! Patterns over segments of a path, and the tree in which they are found: a segment is written out or `*` for any one, and a
//! last `**` stands for all that follows, also for nothing. Of several that match, the narrowest counts.

use std::{collections::HashMap, hash::Hash};

use foldhash::quality::RandomState;

/// How narrow a pattern is, the narrower the larger: more segments written out, then no `**`, then more segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Width {
    pub literal: usize,
    pub closed: bool,
    pub segments: usize,
}

impl Width {
    /// Of a pattern: its segments, none for `*`, and whether no `**` follows.
    pub fn of(segments: &[Option<&str>], closed: bool) -> Self {
        Self { literal: segments.iter().flatten().count(), closed, segments: segments.len() }
    }
}

/// Patterns that begin alike, with a `T` for what ends here and one for what ends here in `**`.
#[derive(Debug, Default)]
pub struct Tree<T> {
    literal: HashMap<Box<str>, Self, RandomState>,
    any: Option<Box<Self>>,
    here: T,
    rest: T,
}

impl<T: Default> Tree<T> {
    /// The place of a pattern, made where there is none.
    pub fn place<'s>(&mut self, segments: impl IntoIterator<Item = Option<&'s str>>, closed: bool) -> &mut T {
        let mut node = self;
        for segment in segments {
            node = match segment {
                Some(literal) => node.literal.entry(literal.into()).or_default(),
                None => node.any.get_or_insert_default(),
            };
        }
        if closed { &mut node.here } else { &mut node.rest }
    }

    /// Shows every place whose pattern matches: as many as there are in the tree at most, whatever the path.
    pub fn visit<'t, 's>(&'t self, segments: impl Iterator<Item = &'s str> + Clone, take: &mut impl FnMut(&'t T, Width)) {
        self.descend(segments, Width::default(), take);
    }

    fn descend<'t, 's>(
        &'t self,
        mut segments: impl Iterator<Item = &'s str> + Clone,
        way: Width,
        take: &mut impl FnMut(&'t T, Width),
    ) {
        take(&self.rest, way);
        let Some(first) = segments.next() else { return take(&self.here, Width { closed: true, ..way }) };
        let further = Width { segments: way.segments + 1, ..way };
        if let Some(node) = self.literal.get(first) {
            node.descend(segments.clone(), Width { literal: way.literal + 1, ..further }, take);
        }
        if let Some(node) = &self.any {
            node.descend(segments, further, take);
        }
    }
}

/// Pairs, by their places in the list, of patterns that are of one width and match some path alike: those that agree wherever
/// both are written out. Only shapes are compared with each other; patterns are found by what they must agree in.
pub fn overlaps<W: Hash + Eq>(patterns: &[(W, Vec<Option<&str>>)]) -> Vec<(usize, usize)> {
    type Shapes = HashMap<Vec<bool>, Vec<usize>>;
    let mut widths: HashMap<&W, Shapes> = HashMap::new();
    for (index, (width, segments)) in patterns.iter().enumerate() {
        let shape = segments.iter().map(Option::is_some).collect();
        widths.entry(width).or_default().entry(shape).or_default().push(index);
    }
    let agreed = |index: usize, both: &[bool]| {
        let segments = patterns.get(index).map(|(_, segments)| segments.as_slice()).unwrap_or_default();
        let common = segments.iter().zip(both).filter(|(_, both)| **both).map(|(segment, _)| *segment);
        common.collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for shapes in widths.into_values() {
        let shapes: Vec<_> = shapes.into_iter().collect();
        for (at, (shape, here)) in shapes.iter().enumerate() {
            for (other, there) in shapes.iter().skip(at) {
                let both: Vec<bool> = shape.iter().zip(other).map(|(a, b)| *a && *b).collect();
                let mut by_common: HashMap<Vec<Option<&str>>, Vec<usize>> = HashMap::new();
                for index in here {
                    by_common.entry(agreed(*index, &both)).or_default().push(*index);
                }
                for second in there {
                    let firsts = by_common.get(&agreed(*second, &both)).into_iter().flatten();
                    // In one shape, each pair would come twice.
                    let firsts = firsts.filter(|first| shape != other || *first < second);
                    found.extend(firsts.map(|first| (*first.min(second), *first.max(second))));
                }
            }
        }
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> (Width, Vec<Option<&str>>) {
        let mut segments: Vec<_> = text.split('/').map(|segment| (segment != "*").then_some(segment)).collect();
        let closed = segments.pop_if(|last| *last == Some("**")).is_none();
        (Width::of(&segments, closed), segments)
    }

    #[test]
    fn every_pattern_that_matches_is_shown_with_its_width() {
        let mut tree = Tree::<Option<&str>>::default();
        for text in ["a/b", "a/*", "*/b", "a/**", "**", "a/b/c", "*"] {
            let (width, segments) = pattern(text);
            *tree.place(segments, width.closed) = Some(text);
        }
        let matching = |path: &str| {
            let mut found = Vec::new();
            tree.visit(path.split('/'), &mut |place, width| found.extend(place.map(|text| (width, text))));
            found.sort_unstable();
            assert!(found.iter().all(|(width, text)| *width == pattern(text).0), "{found:?}");
            found.into_iter().rev().map(|(_, text)| text).collect::<Vec<_>>()
        };
        assert_eq!(matching("a/b"), ["a/b", "a/*", "*/b", "a/**", "**"]);
        assert_eq!(matching("a"), ["a/**", "*", "**"]);
        assert_eq!(matching("x/y/z"), ["**"]);
    }

    #[test]
    fn patterns_overlap_where_they_agree_and_are_as_narrow() {
        for (list, expected) in [
            (vec!["a/*", "*/b"], vec![(0, 1)]),
            (vec!["a/*", "b/*"], vec![]),
            (vec!["a/b", "a/*"], vec![]),
            (vec!["a/*/c", "*/b/c", "a/b/*"], vec![(0, 1), (0, 2), (1, 2)]),
            (vec!["a/*/**", "*/a/**", "a/*"], vec![(0, 1)]),
            (vec!["a/b", "c", "a/b"], vec![(0, 2)]),
            (vec!["a/*/x", "*/b/y"], vec![]),
        ] {
            let patterns: Vec<_> = list.iter().map(|text| pattern(text)).collect();
            assert_eq!(overlaps(&patterns), expected, "{list:?}");
        }
    }
}
