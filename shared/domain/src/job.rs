//! Jobs: work on many deliveries at once, done in steps and turns. What a save means for what is held; how fast a resume
//! goes; when a turn ends.

use std::{fmt, str::FromStr, time::Duration};

/// How long one message of a job is worked on before the job passes itself on as another: nothing stays unacked for
/// longer than an attempt (delivery.md, Broker objects).
const TURN: Duration = Duration::from_secs(15);
/// The job comes back after this, where only its turn is over.
const NEXT_TURN: Duration = Duration::from_millis(100);
/// A turn in which nothing happens any more ends early.
const IDLE: Duration = Duration::from_secs(3);
/// The job comes back after this, where nothing happened.
const AFTER_IDLE: Duration = Duration::from_secs(5);
/// Between two looks at what was released, at least, and so much more for each delivery that a look reads.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_EACH: Duration = Duration::from_micros(200);
/// Between two looks at most.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_millis(500);

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Delivers what is held, oldest first.
    Resume,
    /// Cancels what is held.
    Cancel,
}

impl JobKind {
    /// The kind as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Resume, Self::Cancel]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no kind of job that this version knows"))
    }
}

/// Whether a webhook gets deliveries: it does where its tenant wishes it (`active`) and Fanfare has not disabled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    On,
    /// Its deliveries are held.
    Off,
}

/// What whoever enables a webhook wants done with what is held (contract.md, Management API).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Delivered, oldest first.
    Deliver,
    /// Cancelled.
    Cancel,
    /// Left as it is.
    Keep,
}

/// The job that a webhook's save begins over what is held: by what was asked, or else by the webhook's coming back.
pub fn job_of_save(before: Standing, after: Standing, asked: Option<Held>) -> Option<JobKind> {
    match (asked, before, after) {
        (Some(Held::Keep), _, _) => None,
        (Some(Held::Cancel), _, _) => Some(JobKind::Cancel),
        (Some(Held::Deliver), _, Standing::On) | (None, Standing::Off, Standing::On) => Some(JobKind::Resume),
        (Some(Held::Deliver), _, Standing::Off) | (None, _, _) => None,
    }
}

/// Why a job is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEnd {
    /// Nothing is left to do.
    Done,
    /// The webhook is switched off again: the rest stays held.
    Off,
    /// The webhook is deleted: the rest is another job's to cancel.
    Deleted,
    /// A newer job has what is left.
    Superseded,
}

impl JobEnd {
    /// The end as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Off => "webhook_off",
            Self::Deleted => "webhook_deleted",
            Self::Superseded => "superseded",
        }
    }
}

/// How a resume stands, of one moment. What was released before is in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// What ends it whatever is left.
    pub ends: Option<JobEnd>,
    /// Deliveries that may be released and not yet attempted at once, as decided last; 0 at first.
    pub window: u32,
    /// Attempts that may be under way at the webhook at once.
    pub slots: u32,
    /// Released, and not yet attempted.
    pub outstanding: u32,
    /// Still held.
    pub held: u64,
    /// Attempted since the last look, with success.
    pub delivered: u32,
    /// Attempted since the last look, without.
    pub failed: u32,
    /// For how long nothing has happened.
    pub idle: Duration,
    /// For how long this turn goes already.
    pub turn: Duration,
}

/// What a resume does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeStep {
    /// Releases so many, the oldest.
    Release(u32),
    /// Looks again.
    LookAfter(Duration),
    /// Ends its turn; the next one comes after this.
    PassOn(Duration),
    /// Is over.
    End(JobEnd),
}

/// The window in force now, and what a resume does next.
///
/// The window grows by one with every success, so it doubles while all goes well; a failure halves it. Never more than
/// half of the webhook's slots: the other half is for what happens now (delivery.md, Saturated, not answering, disabled).
pub fn resume_step(resume: &Resume) -> (u32, ResumeStep) {
    let most = (resume.slots / 2).max(1);
    let grown = if resume.failed > 0 { resume.window / 2 } else { resume.window.saturating_add(resume.delivered) };
    let window = grown.clamp(1, most);
    let room = window.saturating_sub(resume.outstanding);
    let left = u32::try_from(resume.held).unwrap_or(u32::MAX);
    let step = match resume.ends {
        Some(end) => ResumeStep::End(end),
        None if left == 0 => ResumeStep::End(JobEnd::Done),
        None if resume.turn >= TURN => ResumeStep::PassOn(NEXT_TURN),
        None if room > 0 => ResumeStep::Release(room.min(left)),
        None if resume.idle >= IDLE => ResumeStep::PassOn(AFTER_IDLE),
        None => ResumeStep::LookAfter((resume.idle / 2).min(LOOK_AT_LEAST_EVERY).max(look_pause(resume.outstanding))),
    };
    (window, step)
}

/// The shortest time between two looks at so many released deliveries.
pub fn look_pause(outstanding: u32) -> Duration {
    (LOOK + LOOK_EACH * outstanding).min(LOOK_AT_LEAST_EVERY)
}

/// Whether a job that never waits for anything goes on, `turn` into its turn; else after which wait it comes back.
pub fn turn_ends(turn: Duration) -> Option<Duration> {
    (turn >= TURN).then_some(NEXT_TURN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_save_means_for_what_is_held() {
        use Held::{Cancel, Deliver, Keep};
        use Standing::{Off, On};
        for (before, after, asked, job) in [
            (Off, On, None, Some(JobKind::Resume)),
            (On, On, None, None),
            (On, Off, None, None),
            (Off, Off, None, None),
            (Off, On, Some(Deliver), Some(JobKind::Resume)),
            // What was kept when it was enabled is delivered when somebody asks for that later.
            (On, On, Some(Deliver), Some(JobKind::Resume)),
            // Enabled, and still not active: what is held waits for that.
            (Off, Off, Some(Deliver), None),
            (Off, On, Some(Keep), None),
            (Off, On, Some(Cancel), Some(JobKind::Cancel)),
            (Off, Off, Some(Cancel), Some(JobKind::Cancel)),
        ] {
            assert_eq!(job_of_save(before, after, asked), job, "{before:?} to {after:?}, asked for {asked:?}");
        }
    }

    fn resume() -> Resume {
        Resume {
            ends: None,
            window: 0,
            slots: 16,
            outstanding: 0,
            held: 100,
            delivered: 0,
            failed: 0,
            idle: Duration::ZERO,
            turn: Duration::ZERO,
        }
    }

    #[test]
    fn what_a_resume_does_next() {
        use ResumeStep::{End, LookAfter, PassOn, Release};
        let (ms, secs) = (Duration::from_millis, Duration::from_secs);
        for (resume, window, step) in [
            (resume(), 1, Release(1)),
            (Resume { window: 1, delivered: 1, ..resume() }, 2, Release(2)),
            (Resume { window: 2, delivered: 2, ..resume() }, 4, Release(4)),
            (Resume { window: 2, delivered: 1, outstanding: 1, ..resume() }, 3, Release(2)),
            (Resume { window: 8, delivered: 8, ..resume() }, 8, Release(8)),
            (Resume { window: 8, failed: 1, delivered: 7, ..resume() }, 4, Release(4)),
            (Resume { window: 8, held: 3, ..resume() }, 8, Release(3)),
            (Resume { slots: 1, window: 1, delivered: 1, ..resume() }, 1, Release(1)),
            (Resume { window: 1, outstanding: 1, ..resume() }, 1, LookAfter(look_pause(1))),
            (Resume { window: 1, outstanding: 1, idle: ms(400), ..resume() }, 1, LookAfter(ms(200))),
            (Resume { window: 1, outstanding: 1, idle: secs(3), ..resume() }, 1, PassOn(secs(5))),
            (Resume { window: 4, turn: secs(15), ..resume() }, 4, PassOn(ms(100))),
            (Resume { held: 0, outstanding: 3, window: 4, ..resume() }, 4, End(JobEnd::Done)),
            (Resume { ends: Some(JobEnd::Off), window: 4, ..resume() }, 4, End(JobEnd::Off)),
        ] {
            assert_eq!(resume_step(&resume), (window, step), "{resume:?}");
        }
    }

    proptest! {
        #[test]
        fn a_resume_takes_half_of_the_slots_at_most_and_always_gets_on(
            window in 0_u32..600, slots in 0_u32..=1_000, outstanding in 0_u32..600, held in 0_u64..10_000,
            delivered in 0_u32..600, failed in 0_u32..600, idle_ms in 0_u64..10_000, turn_ms in 0_u64..20_000,
        ) {
            let (idle, turn) = (Duration::from_millis(idle_ms), Duration::from_millis(turn_ms));
            let resume = Resume { ends: None, window, slots, outstanding, held, delivered, failed, idle, turn };
            let (next, step) = resume_step(&resume);
            prop_assert!(next >= 1 && next <= (slots / 2).max(1));
            match step {
                ResumeStep::Release(count) => {
                    prop_assert!(count >= 1 && u64::from(count) <= held && outstanding + count <= next);
                }
                ResumeStep::LookAfter(wait) => prop_assert!(wait >= LOOK && wait <= LOOK_AT_LEAST_EVERY),
                ResumeStep::PassOn(wait) => prop_assert!(!wait.is_zero()),
                ResumeStep::End(_) => prop_assert_eq!(held, 0),
            }
        }
    }

    #[test]
    fn a_kind_reads_back_as_written() {
        for kind in [JobKind::Resume, JobKind::Cancel] {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("x".parse::<JobKind>().is_err());
    }
}
