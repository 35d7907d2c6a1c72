// SPDX-License-Identifier: Apache-2.0 OR MIT

//! When a generation of keys is made, signs, and is forgotten. Pure: times in, a plan out.
//!
//! The next generation is made at half the life of the last and published at once; it signs from five sixths on.
//! Whoever verifies has the third between to learn of it, and the sixth that is left lets what the old one signed
//! run out before it is forgotten. Nothing that a generation signs outlives it.

use jiff::{SignedDuration, Timestamp};

/// From when to when a generation is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) begins_at: Timestamp,
    /// Nothing it signs is good at this instant.
    pub(super) ends_at: Timestamp,
}

/// What to do now, in places of the list that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Which signs; none when there is none of use.
    pub(super) signing: Option<usize>,
    /// Whether the next one has to be made.
    pub(super) is_due: bool,
}

impl Life {
    fn has_begun(&self, now: Timestamp) -> bool {
        self.begins_at <= now
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.ends_at <= now
    }

    pub(super) fn is_of_use(&self, now: Timestamp) -> bool {
        self.has_begun(now) && !self.is_over(now)
    }

    /// After so many sixths of its life.
    fn after(&self, sixths: i32) -> Timestamp {
        let life = self.ends_at.duration_since(self.begins_at);
        self.begins_at.saturating_add(life / 6 * sixths).unwrap_or(self.ends_at)
    }
}

/// `lives` is in the order of making.
///
/// One that begins in the future was made while the clock was wrong: it is left alone and not relied on.
pub(super) fn plan(lives: &[Life], now: Timestamp) -> Plan {
    let of_use: Vec<(usize, &Life)> = lives.iter().enumerate().filter(|(_, life)| life.is_of_use(now)).collect();
    let mut signing = None;
    let mut previous: Option<&Life> = None;
    for (place, life) in &of_use {
        if previous.is_none_or(|previous| previous.after(5) <= now) {
            signing = Some(*place);
        }
        previous = Some(life);
    }
    let is_due = of_use.last().is_none_or(|(_, newest)| newest.after(3) <= now);
    Plan { signing, is_due }
}

/// How long until the plan can be another one, at most `longest`.
pub(super) fn next_look(lives: &[Life], now: Timestamp, longest: SignedDuration) -> SignedDuration {
    let turns = lives.iter().flat_map(|life| [life.after(3), life.after(5), life.ends_at]);
    let next = turns.filter(|turn| *turn > now).min();
    next.map_or(longest, |turn| turn.duration_since(now).min(longest)).max(SignedDuration::from_millis(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn life(from: i64, to: i64) -> Life {
        Life { begins_at: at(from), ends_at: at(to) }
    }

    #[test]
    fn the_next_is_made_at_half_and_signs_at_five_sixths() {
        let (first, second) = (life(0, 600), life(300, 900));
        for (lives, now, signing, is_due) in [
            (&[][..], 0, None, true),
            (&[first], 0, Some(0), false),
            (&[first], 299, Some(0), false),
            (&[first], 300, Some(0), true),
            (&[first, second], 300, Some(0), false),
            (&[first, second], 499, Some(0), false),
            (&[first, second], 500, Some(1), false),
            (&[first, second], 599, Some(1), false),
            (&[first, second], 600, Some(1), true),
            (&[first, second], 900, None, true),
        ] {
            assert_eq!(plan(lives, at(now)), Plan { signing, is_due }, "{lives:?} at {now}");
        }
    }

    #[test]
    fn whoever_slept_over_a_turn_gets_a_new_one_and_goes_on_with_the_old_until_then() {
        // The daemon was down from 100 to 550.
        assert_eq!(plan(&[life(0, 600)], at(550)), Plan { signing: Some(0), is_due: true });
        // The one made now signs at once: the old one is nearly over.
        assert_eq!(plan(&[life(0, 600), life(550, 1150)], at(550)).signing, Some(1));
    }

    #[test]
    fn a_key_made_while_the_clock_was_ahead_neither_signs_nor_keeps_a_new_one_from_being_made() {
        let ahead = life(10_000, 10_600);
        assert_eq!(plan(&[ahead], at(0)), Plan { signing: None, is_due: true });
        assert_eq!(plan(&[ahead, life(0, 600)], at(1)).signing, Some(1));
        assert_eq!(plan(&[life(0, 600), ahead], at(1)).signing, Some(0));
    }

    #[test]
    fn the_next_look_is_at_the_next_turn_and_never_a_spin() {
        let longest = SignedDuration::from_secs(60);
        for (lives, now, seconds) in [
            (&[][..], 0, 60),
            (&[life(0, 60)], 0, 30),
            (&[life(0, 60)], 30, 20),
            (&[life(0, 60)], 50, 10),
            (&[life(0, 600)], 0, 60),
        ] {
            assert_eq!(next_look(lives, at(now), longest), SignedDuration::from_secs(seconds), "{now}");
        }
        let nearly = Timestamp::new(29, 999_999_999).unwrap();
        assert_eq!(next_look(&[life(0, 60)], nearly, longest), SignedDuration::from_millis(10));
    }
}
