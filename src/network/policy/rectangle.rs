//! Rectangles of two ranges of numbers, such as ports and addresses, made disjoint.
//!
//! The kernel's sets of concatenated intervals refuse elements that overlap. Rules do, so what they cover together is cut
//! into pieces that do not.

/// All pairs of a number in `x` and one in `y`; both ranges include their ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rectangle {
    pub(super) x: (u32, u32),
    pub(super) y: (u32, u32),
}

impl Rectangle {
    fn area(&self) -> u64 {
        let side = |(first, last): (u32, u32)| u64::from(last - first) + 1;
        side(self.x).saturating_mul(side(self.y))
    }

    /// What of this one is not in `other`: at most four pieces, which are disjoint.
    fn without(&self, other: &Self) -> Vec<Self> {
        let (Some(x), Some(y)) = (common(self.x, other.x), common(self.y, other.y)) else {
            return vec![*self];
        };
        let beside = outside(self.x, x).map(|x| Self { x, y: self.y });
        let above_and_below = outside(self.y, y).map(|y| Self { x, y });
        beside.chain(above_and_below).collect()
    }
}

fn common(one: (u32, u32), other: (u32, u32)) -> Option<(u32, u32)> {
    let (first, last) = (one.0.max(other.0), one.1.min(other.1));
    (first <= last).then_some((first, last))
}

/// What of `range` is before and after `part`, which lies in it.
fn outside(range: (u32, u32), part: (u32, u32)) -> impl Iterator<Item = (u32, u32)> {
    let before = (range.0 < part.0).then(|| (range.0, part.0 - 1));
    let after = (part.1 < range.1).then(|| (part.1 + 1, range.1));
    before.into_iter().chain(after)
}

/// Disjoint rectangles that cover together what `rectangles` do.
pub(super) fn disjoint(mut rectangles: Vec<Rectangle>) -> Vec<Rectangle> {
    // Large ones first: what lies in one of them is gone at once, and cuts nothing.
    rectangles.sort_by_key(|rectangle| (std::cmp::Reverse(rectangle.area()), *rectangle));
    let mut covered: Vec<Rectangle> = Vec::new();
    for rectangle in rectangles {
        let mut pieces = vec![rectangle];
        for other in &covered {
            pieces = pieces.iter().flat_map(|piece| piece.without(other)).collect();
            if pieces.is_empty() {
                break;
            }
        }
        covered.append(&mut pieces);
    }
    covered.sort_unstable();
    covered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = (u32, u32)> {
        (0u32..12, 0u32..12).prop_map(|(one, other)| (one.min(other), one.max(other)))
    }

    fn covers(rectangle: &Rectangle, x: u32, y: u32) -> bool {
        (rectangle.x.0..=rectangle.x.1).contains(&x) && (rectangle.y.0..=rectangle.y.1).contains(&y)
    }

    proptest! {
        #[test]
        fn each_point_is_covered_once_or_not_at_all(
            rectangles in prop::collection::vec((range(), range()).prop_map(|(x, y)| Rectangle { x, y }), 0..12)
        ) {
            let pieces = disjoint(rectangles.clone());
            for (x, y) in (0..12).flat_map(|x| (0..12).map(move |y| (x, y))) {
                let expected = usize::from(rectangles.iter().any(|rectangle| covers(rectangle, x, y)));
                prop_assert_eq!(pieces.iter().filter(|piece| covers(piece, x, y)).count(), expected, "{} {}", x, y);
            }
        }
    }

    #[test]
    fn the_whole_of_both_ranges_has_an_area() {
        let all = Rectangle { x: (0, u32::MAX), y: (0, u32::MAX) };
        let part = Rectangle { x: (22, 22), y: (0, u32::MAX) };
        assert_eq!(disjoint(vec![part, all, part]), [all]);
    }
}
