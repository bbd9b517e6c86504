//! The date for templates: `datetime.now().strftime(format)`.

use std::time::{SystemTime, UNIX_EPOCH};

/// A date and time of day in some time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
}

impl CivilTime {
    /// The local time of now; UTC if the system cannot tell its time zone.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_seconds = since_epoch.map_or(0, |elapsed| elapsed.as_secs() as i64);
        local_offset(unix_seconds).map_or_else(
            || Self::from_unix(unix_seconds),
            |o| Self::from_unix(unix_seconds + o),
        )
    }

    /// UTC from seconds since 1970.
    pub fn from_unix(seconds: i64) -> Self {
        let (days, second_of_day) = (
            seconds.div_euclid(86_400),
            seconds.rem_euclid(86_400) as u32,
        );
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
        // civil_from_days: years begin in March, eras have 400 of them.
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u32,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32,
            hour: second_of_day / 3_600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }

    /// C's `strftime` in the C locale. Unknown directives stay as they are.
    pub fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            match characters.next() {
                // glibc, BSD: without padding.
                Some('-') => match characters.next() {
                    Some(directive) => out.push_str(unpadded(&self.directive(directive))),
                    None => out.push_str("%-"),
                },
                Some(directive) => out.push_str(&self.directive(directive)),
                None => out.push('%'),
            }
        }
        out
    }

    fn directive(&self, directive: char) -> String {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = *self;
        let hour_of_12 = (hour + 11) % 12 + 1;
        match directive {
            'Y' => year.to_string(),
            'y' => format!("{:02}", year.rem_euclid(100)),
            'C' => format!("{:02}", year.div_euclid(100)),
            'm' => format!("{month:02}"),
            'B' => self.month_name().into(),
            'b' | 'h' => self.month_name()[..3].into(),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'j' => format!("{:03}", self.day_of_year()),
            'A' => self.weekday_name().into(),
            'a' => self.weekday_name()[..3].into(),
            'w' => self.weekday().to_string(),
            'u' => ((self.weekday() + 6) % 7 + 1).to_string(),
            'H' => format!("{hour:02}"),
            'I' => format!("{hour_of_12:02}"),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'f' => "000000".into(),
            'F' => self.format("%Y-%m-%d"),
            'D' | 'x' => self.format("%m/%d/%y"),
            'T' | 'X' => self.format("%H:%M:%S"),
            'R' => self.format("%H:%M"),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            'n' => "\n".into(),
            't' => "\t".into(),
            // The time has no zone, as in Python.
            'Z' | 'z' => String::new(),
            '%' => "%".into(),
            other => format!("%{other}"),
        }
    }

    fn month_name(&self) -> &'static str {
        const NAMES: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        NAMES[(self.month as usize + 11) % 12]
    }

    fn weekday_name(&self) -> &'static str {
        const NAMES: [&str; 7] = [
            "Sunday",
            "Monday",
            "Tuesday",
            "Wednesday",
            "Thursday",
            "Friday",
            "Saturday",
        ];
        NAMES[self.weekday() as usize]
    }

    /// 0 is Sunday. Sakamoto's method.
    fn weekday(&self) -> u32 {
        const SHIFTS: [i64; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = self.year - i64::from(self.month < 3);
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let shift = SHIFTS[(self.month as usize + 11) % 12];
        (year + leap_days + shift + i64::from(self.day)).rem_euclid(7) as u32
    }

    /// 1 is the first of January.
    fn day_of_year(&self) -> u32 {
        const BEFORE: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let is_leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let leap_day = u32::from(is_leap && self.month > 2);
        BEFORE[(self.month as usize + 11) % 12] + leap_day + self.day
    }
}

/// Takes the padding of a number away, but not its last digit.
fn unpadded(text: &str) -> &str {
    match text.trim_start_matches(['0', ' ']) {
        "" => "0",
        trimmed => trimmed,
    }
}

/// Seconds east of UTC at a moment.
#[cfg(unix)]
fn local_offset(unix_seconds: i64) -> Option<i64> {
    let moment = libc::time_t::try_from(unix_seconds).ok()?;
    let mut local = std::mem::MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are valid for the call, and localtime_r fills the
    // second one in when it doesn't return null.
    let local = unsafe {
        if libc::localtime_r(&moment, local.as_mut_ptr()).is_null() {
            return None;
        }
        local.assume_init()
    };
    Some(local.tm_gmtoff)
}

#[cfg(not(unix))]
fn local_offset(_unix_seconds: i64) -> Option<i64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_seconds_become_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 Thursday 001"),
            (951_782_400, "2000-02-29 00:00:00 Tuesday 060"),
            (1_741_529_107, "2025-03-09 14:05:07 Sunday 068"),
            (4_107_542_399, "2100-02-28 23:59:59 Sunday 059"),
            (-1, "1969-12-31 23:59:59 Wednesday 365"),
        ] {
            assert_eq!(CivilTime::from_unix(seconds).format("%F %T %A %j"), text);
        }
    }

    #[test]
    fn directives_follow_the_c_locale() {
        let time = CivilTime::from_unix(1_741_529_107);
        for (format, text) in [
            ("%d %b %Y", "09 Mar 2025"),
            ("%B %-d, %Y", "March 9, 2025"),
            ("%e|%y|%C|%h|%a|%w|%u", " 9|25|20|Mar|Sun|0|7"),
            ("%I:%M %p|%-I|%R|%D", "02:05 PM|2|14:05|03/09/25"),
            ("%c", "Sun Mar  9 14:05:07 2025"),
            ("%n%t%%", "\n\t%"),
            ("%Z%z", ""),
            ("%Q %", "%Q %"),
        ] {
            assert_eq!(time.format(format), text, "{format}");
        }
        let midnight = CivilTime::from_unix(0);
        assert_eq!(midnight.format("%I %p %-H"), "12 AM 0");
    }

    #[cfg(unix)]
    #[test]
    fn now_is_within_a_day_of_utc() {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64;
        let offset = local_offset(seconds).unwrap();
        assert!(offset.abs() <= 86_400);
        assert!(CivilTime::now().year >= 2024);
    }
}
