//! Date fields.

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// RFC 5322 3.3 date-time in UTC, English whatever the locale: `Wed, 25 Nov 2026 01:00:00 +0000`. `now_ms` is milliseconds since
/// 1970-01-01T00:00:00Z.
pub fn date_field(now_ms: i64) -> String {
    let seconds = now_ms.div_euclid(1000);
    let (days, clock) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let name = |table: &[&'static str], index: i64| {
        usize::try_from(index).ok().and_then(|i| table.get(i).copied()).unwrap_or_default()
    };
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} +0000",
        name(&DAYS, days.rem_euclid(7)),
        name(&MONTHS, month - 1),
        clock / 3600,
        clock / 60 % 60,
        clock % 60
    )
}

/// Year, month (1-12) and day (1-31) of the proleptic Gregorian calendar. Years are counted from March, so that the leap day is
/// the last of its year, in eras of 400 years.
fn civil(days_since_1970: i64) -> (i64, i64, i64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::date_field;

    #[test]
    fn dates_are_english_utc_with_a_numeric_zone() {
        let rows = [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (-1, "Wed, 31 Dec 1969 23:59:59 +0000"),
            (951_782_400_000, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_795_568_400_999, "Wed, 25 Nov 2026 01:00:00 +0000"),
            (4_107_542_399_000, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (4_107_542_400_000, "Mon, 01 Mar 2100 00:00:00 +0000"),
        ];
        for (now_ms, expect) in rows {
            assert_eq!(date_field(now_ms), expect);
        }
    }

    #[test]
    fn every_day_of_400_years_agrees_with_the_time_crate() {
        for day in 0..146_097_i64 {
            let there = time::OffsetDateTime::from_unix_timestamp(day * 86_400).unwrap();
            let expect = format!("{:02} {} {}", there.day(), &there.month().to_string()[..3], there.year());
            let here = date_field(day * 86_400_000);
            assert!(here.contains(&expect), "{here} is not {expect}");
            assert_eq!(here[..3], there.weekday().to_string()[..3]);
        }
    }
}
