//! Moments as the calendar writes them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment in the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Civil {
    /// From 1970 on.
    pub(super) year: u64,
    /// 1 to 12.
    pub(super) month: u64,
    /// 1 to 31.
    pub(super) day: u64,
    /// 0 to 23.
    pub(super) hour: u64,
    /// 0 to 59.
    pub(super) minute: u64,
    /// 0 to 59.
    pub(super) second: u64,
    /// 0 to 999.
    pub(super) millisecond: u32,
}

impl Civil {
    /// `2025-11-02 10:15:00`, without what is below a second.
    pub(super) fn text(&self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

impl From<SystemTime> for Civil {
    fn from(moment: SystemTime) -> Self {
        let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Days since 1 March of year 0: years then end with the leap day.
        let days = days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year + u64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            millisecond: since.subsec_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_moment_is_that_of_the_calendar() {
        for (seconds, expected) in [
            (0, (1970, 1, 1, 0, 0, 0)),
            (951_782_400, (2000, 2, 29, 0, 0, 0)),
            (1_762_078_500, (2025, 11, 2, 10, 15, 0)),
            (4_102_444_799, (2099, 12, 31, 23, 59, 59)),
        ] {
            let Civil { year, month, day, hour, minute, second, .. } =
                (UNIX_EPOCH + Duration::from_secs(seconds)).into();
            assert_eq!((year, month, day, hour, minute, second), expected);
        }
    }
}
