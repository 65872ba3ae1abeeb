//! The ladder of fixed delays that any wait is made of: which queue a waiting delivery goes to next.
//!
//! Each tier is one queue with one TTL, so that no message waits behind a longer one (architecture.md, promise 4). Due
//! times are absolute, so what one hop comes late the next one makes up for.

use std::time::Duration;

/// The tiers' delays in milliseconds, ascending: 1-2-5 up to half an hour, then doubling (delivery.md, Broker objects).
pub const TIERS_MS: [u64; 24] = {
    const S: u64 = 1_000;
    const MIN: u64 = 60 * S;
    const H: u64 = 60 * MIN;
    const D: u64 = 24 * H;
    [
        100,
        200,
        500,
        S,
        2 * S,
        5 * S,
        10 * S,
        20 * S,
        30 * S,
        MIN,
        2 * MIN,
        5 * MIN,
        10 * MIN,
        20 * MIN,
        30 * MIN,
        H,
        2 * H,
        4 * H,
        8 * H,
        16 * H,
        D,
        2 * D,
        4 * D,
        7 * D,
    ]
};

/// No wait of up to 14 days takes more hops than this.
pub const MAX_HOPS: u32 = 10;

/// Where a waiting delivery goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// It is due: to the dispatcher.
    Now,
    /// Into the tier of so many milliseconds.
    Tier {
        /// The tier's delay, one of [`TIERS_MS`].
        ms: u64,
        /// Nothing is left after it: from the tier straight to the dispatcher.
        last: bool,
    },
}

/// The hop that follows `made` hops when `left` is still to wait. Never early: the hops together are no shorter than
/// the wait.
pub fn next_hop(left: Duration, made: u32) -> Hop {
    // A part of a millisecond still to wait is one more millisecond.
    let left_ms = u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    if left_ms == 0 {
        return Hop::Now;
    }
    // Work on the way has eaten into the wait: without some tolerance 4.99 s would become five hops, not one.
    let late_ms = (left_ms / 50).clamp(20, 30_000);
    let ms = if made + 1 >= MAX_HOPS {
        // Late rather than one more hop: what is left here is what nine tiers could not make up.
        TIERS_MS.into_iter().find(|&tier| tier >= left_ms)
    } else {
        TIERS_MS.into_iter().rev().find(|&tier| tier <= left_ms + late_ms)
    };
    let ms = ms.unwrap_or(if left_ms < TIERS_MS[0] { TIERS_MS[0] } else { TIERS_MS[TIERS_MS.len() - 1] });
    Hop::Tier { ms, last: ms >= left_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The hops a wait is made of, each coming `late` after its tier's time.
    fn hops(wait: Duration, late: Duration) -> (Vec<u64>, Duration) {
        let (mut hops, mut waited) = (Vec::new(), Duration::ZERO);
        while let Hop::Tier { ms, last } = next_hop(wait.saturating_sub(waited), u32::try_from(hops.len()).unwrap()) {
            hops.push(ms);
            waited += Duration::from_millis(ms) + late;
            if last {
                assert!(waited >= wait, "{hops:?} is not the whole wait");
                break;
            }
        }
        (hops, waited)
    }

    #[test]
    fn a_documented_timetable_takes_the_hops_it_should() {
        let minutes = [5, 7, 21, 59, 133, 255, 437, 691, 1029, 1758];
        let taken: usize = minutes.iter().map(|m| hops(Duration::from_secs(m * 60), Duration::ZERO).0.len()).sum();
        assert_eq!(taken, 40); // delivery.md, Broker objects
    }

    #[test]
    fn work_on_the_way_adds_no_hop() {
        for (left_ms, tier) in [(4_990, 5_000), (299_000, 300_000), (100, 100), (1, 100), (250, 200)] {
            let Hop::Tier { ms, .. } = next_hop(Duration::from_millis(left_ms), 0) else {
                panic!("{left_ms} is not due")
            };
            assert_eq!(ms, tier, "{left_ms} ms left");
        }
        assert_eq!(next_hop(Duration::ZERO, 3), Hop::Now);
    }

    proptest! {
        #[test]
        fn never_early_and_at_most_ten_hops(wait_ms in 1_u64..14 * 86_400_000, late_ms in 0_u64..400) {
            let (hops, waited) = hops(Duration::from_millis(wait_ms), Duration::from_millis(late_ms));
            prop_assert!(waited >= Duration::from_millis(wait_ms), "{hops:?} is early");
            prop_assert!(hops.len() <= MAX_HOPS as usize, "{hops:?}");
        }

        #[test]
        fn late_by_two_percent_at_most(wait_ms in 5_000_u64..14 * 86_400_000) {
            let wait = Duration::from_millis(wait_ms);
            let (hops, waited) = hops(wait, Duration::ZERO);
            prop_assert!(waited - wait <= wait / 50, "{hops:?} is {:?} late", waited - wait);
        }
    }
}
