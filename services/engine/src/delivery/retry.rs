//! When a recipient is tried again, and which replies end the trying (RFC 5321 4.2.1, 4.5.4.1). Pure.
use super::reply::{EnhancedCode, Reply, ReplyClass};
use signpost_keys::Random;

const MINUTE: i64 = 60_000;

/// Minutes to wait after a 4yz reply; the last one goes on until the lifetime ends.
const AFTER_REPLY: [i64; 6] = [5, 15, 30, 60, 120, 240];
/// Minutes to wait after connection or DNS trouble: two quick tries, then the same series.
const AFTER_TROUBLE: [i64; 8] = [1, 2, 5, 15, 30, 60, 120, 240];

/// Why an attempt has to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The server said 4yz.
    Reply,
    /// No reply: connection, TLS or DNS.
    Trouble,
}

/// What follows an attempt that has to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again at this time.
    At(i64),
    /// The queue lifetime is over.
    Expired,
}

/// After the attempt number `attempts` (0: the first) failed at `now`. The last try is at `expires_at`, never later.
pub fn next(cause: Cause, attempts: i64, now: i64, expires_at: i64, random: &dyn Random) -> Next {
    if now >= expires_at {
        return Next::Expired;
    }
    Next::At(now.saturating_add(delay(cause, attempts, random)).min(expires_at))
}

/// Milliseconds. The jitter of 20 % only lengthens: a greylisting server with a window of five minutes would refuse a
/// retry that comes earlier (RFC 6647 2).
pub fn delay(cause: Cause, attempts: i64, random: &dyn Random) -> i64 {
    let series: &[i64] = match cause {
        Cause::Reply => &AFTER_REPLY,
        Cause::Trouble => &AFTER_TROUBLE,
    };
    let index = usize::try_from(attempts).unwrap_or(0).min(series.len() - 1);
    jitter(series[index] * MINUTE, random)
}

/// `base` and up to a fifth more.
pub fn jitter(base: i64, random: &dyn Random) -> i64 {
    let mut octets = [0_u8; 4];
    random.fill(&mut octets);
    base + base / 5 * i64::from(u32::from_le_bytes(octets)) / i64::from(u32::MAX)
}

/// Which command a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The connection, EHLO or HELO.
    Opening,
    /// MAIL.
    Mail,
    /// MAIL to the operator's relay.
    MailToRelay,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The dot that ends the content.
    Content,
}

/// True if a negative reply ends the trying for the recipient (RFC 5321 4.2.1).
///
/// The reply code decides, not the enhanced one (RFC 2034 4), with two exceptions:
/// 552 to RCPT is 452 misspelled, unless its enhanced code speaks of something else than the number of recipients
/// (RFC 5321 4.5.3.1.10); 530, 534, 535 and 538 ask for a login or for TLS (RFC 4954 6, RFC 3207 4) and so speak of our
/// set-up, not of the recipient. What the operator's relay says before it was told of a recipient speaks of the set-up as
/// well, unless it is about the sender's address or the size (RFC 3463 3.2, 3.4): else one wrong setting would bounce the
/// whole queue.
pub fn is_permanent(command: Command, reply: &Reply) -> bool {
    if reply.class() != ReplyClass::Permanent {
        return false;
    }
    match command {
        Command::Rcpt => !is_too_many_recipients(reply),
        Command::MailToRelay => {
            matches!(reply.code, 552 | 553)
                || matches!(
                    reply.enhanced,
                    Some(EnhancedCode { subject: 1, .. } | EnhancedCode { subject: 3, detail: 4, .. })
                )
        }
        Command::Opening | Command::Mail => !matches!(reply.code, 530 | 534 | 535 | 538),
        Command::Data | Command::Content => true,
    }
}

/// RFC 5321 4.5.3.1.10, RFC 3463 3.6 (X.5.3): the rest of the recipients belongs into another transaction.
pub fn is_too_many_recipients(reply: &Reply) -> bool {
    matches!(reply.code, 452 | 552)
        && match reply.enhanced {
            None => true,
            Some(EnhancedCode { subject: 5, detail: 3, .. }) => true,
            // X.0.0 says nothing at all.
            Some(EnhancedCode { subject: 0, .. }) => true,
            Some(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);
    impl Random for Fixed {
        fn fill(&self, dest: &mut [u8]) {
            dest.fill(self.0);
        }
    }

    /// G01: the first retry after a greylisting reply comes after five minutes or a little more.
    #[test]
    fn series_after_a_temporary_reply() {
        let minutes = |attempts, random: u8| delay(Cause::Reply, attempts, &Fixed(random)) / MINUTE;
        let least: Vec<i64> = (0..9).map(|n| minutes(n, 0)).collect();
        assert_eq!(least, [5, 15, 30, 60, 120, 240, 240, 240, 240]);
        let most: Vec<i64> = (0..9).map(|n| minutes(n, 255)).collect();
        assert_eq!(most, [6, 18, 36, 72, 144, 288, 288, 288, 288]);
    }

    #[test]
    fn series_after_trouble_starts_quicker() {
        let least: Vec<i64> = (0..9).map(|n| delay(Cause::Trouble, n, &Fixed(0)) / MINUTE).collect();
        assert_eq!(least, [1, 2, 5, 15, 30, 60, 120, 240, 240]);
    }

    #[test]
    fn a_relay_that_refuses_us_bounces_nothing() {
        let reply = |code, enhanced: Option<(u16, u16)>| Reply {
            code,
            enhanced: enhanced.map(|(subject, detail)| EnhancedCode::new(5, subject, detail)),
            text: String::new(),
        };
        for (code, enhanced, permanent) in [
            (550, None, false),
            (554, Some((7, 1)), false),
            (530, Some((7, 0)), false),
            (552, None, true),
            (553, None, true),
            (550, Some((1, 8)), true),
            (554, Some((3, 4)), true),
        ] {
            let reply = reply(code, enhanced);
            assert_eq!(is_permanent(Command::MailToRelay, &reply), permanent, "{reply}");
        }
    }

    /// G04.
    #[test]
    fn the_last_try_is_at_the_end_of_the_lifetime_and_then_it_expires() {
        let expires = 5 * 24 * 60 * MINUTE;
        let mut now = 0;
        let mut attempts = 0;
        while let Next::At(at) = next(Cause::Reply, attempts, now, expires, &Fixed(128)) {
            assert!(at > now && at <= expires, "attempt {attempts} at {at}");
            now = at;
            attempts += 1;
        }
        assert_eq!(now, expires, "a last try is made when the lifetime ends");
        assert!((28..40).contains(&attempts), "{attempts}");
    }

    #[test]
    fn an_odd_attempt_count_is_harmless() {
        assert_eq!(delay(Cause::Reply, -1, &Fixed(0)), 5 * MINUTE);
        assert_eq!(delay(Cause::Trouble, i64::MAX, &Fixed(0)), 240 * MINUTE);
    }

    #[test]
    fn permanent_and_temporary_replies() {
        use Command::{Content, Data, Mail, Opening, Rcpt};
        let table = [
            (Rcpt, 451, Some((4, 7, 1)), false),
            (Rcpt, 421, Some((4, 7, 0)), false),
            (Rcpt, 550, Some((5, 1, 1)), true),
            (Rcpt, 550, None, true),
            (Rcpt, 452, None, false),
            (Rcpt, 552, None, false),
            (Rcpt, 552, Some((5, 5, 3)), false),
            (Rcpt, 552, Some((5, 2, 2)), true),
            (Rcpt, 452, Some((4, 2, 2)), false),
            (Content, 552, None, true),
            (Content, 554, None, true),
            (Content, 452, Some((4, 3, 1)), false),
            (Mail, 552, Some((5, 3, 4)), true),
            (Mail, 530, Some((5, 7, 0)), false),
            (Mail, 550, Some((5, 7, 1)), true),
            (Opening, 554, None, true),
            (Opening, 421, None, false),
            (Data, 554, None, true),
            (Data, 250, None, false),
        ];
        for (command, code, enhanced, permanent) in table {
            let enhanced = enhanced.map(|(class, subject, detail)| EnhancedCode::new(class, subject, detail));
            let reply = Reply { code, enhanced, text: String::new() };
            assert_eq!(is_permanent(command, &reply), permanent, "{command:?} {reply}");
        }
    }
}
