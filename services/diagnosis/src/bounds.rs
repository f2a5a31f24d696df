//! How large a finding may be. It is stored with every check, and all of its texts come from the tenant's DNS.
use crate::check::{Finding, Want};
use crate::misplaced;

const FOUND_MAX: usize = 10;
const WARNINGS_MAX: usize = 20;
const SERVERS_MAX: usize = 50;
/// Octets of a record text, of an explanation, and of a value to publish.
const TEXT_MAX: usize = 4_096;
/// Octets of a warning and of the name of a server.
const LINE_MAX: usize = 1_000;

/// The finding within its bounds; what was cut says so. The records that were wanted are shown before others at the same name.
pub(crate) fn bounded(mut finding: Finding, want: &Want) -> Finding {
    let more = finding.found.len().saturating_sub(FOUND_MAX);
    if more > 0 {
        finding.found.sort_by_cached_key(|text| !misplaced::is_ours(want, std::slice::from_ref(text)));
        finding.found.truncate(FOUND_MAX);
    }
    finding.found.iter_mut().for_each(|text| cut(text, TEXT_MAX));
    if more > 0 {
        finding.found.push(format!("(and {more} more records, not repeated here)"));
    }
    let mut cuts = Vec::new();
    for (what, length, max) in [
        ("servers were asked", finding.servers.len(), SERVERS_MAX),
        ("warnings were given", finding.warnings.len(), WARNINGS_MAX),
    ] {
        if length > max {
            cuts.push(format!("{} more {what} than are shown.", length - max));
        }
    }
    finding.servers.truncate(SERVERS_MAX);
    finding.warnings.truncate(WARNINGS_MAX);
    finding.warnings.append(&mut cuts);
    finding.servers.iter_mut().for_each(|answer| cut(&mut answer.server, LINE_MAX));
    finding.warnings.iter_mut().for_each(|text| cut(text, LINE_MAX));
    cut(&mut finding.explanation, TEXT_MAX);
    // half a record must not be published
    finding.publish = finding.publish.filter(|value| value.len() <= TEXT_MAX);
    finding
}

fn cut(text: &mut String, max: usize) {
    let length = text.len();
    if length > max {
        text.truncate(text.floor_char_boundary(max));
        text.push_str(&format!("... (cut, {length} octets in all)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{ServerAnswer, Status};

    #[test]
    fn a_finding_does_not_grow_with_what_dns_holds() {
        let huge = "é".repeat(40_000);
        let finding = Finding {
            status: Status::Duplicate,
            warnings: vec![huge.clone(); 1_000],
            found: vec![huge.clone(); 1_000],
            servers: vec![ServerAnswer { server: huge.clone(), status: Status::Ok }; 1_000],
            explanation: huge.clone(),
            publish: Some(huge),
        };
        let finding = bounded(finding, &Want::Dmarc);
        assert!(format!("{finding:?}").len() < 150_000);
        assert_eq!((finding.found.len(), finding.servers.len(), finding.warnings.len()), (11, 50, 22));
        assert!(finding.found[0].ends_with("... (cut, 80000 octets in all)"), "{}", finding.found[0]);
        assert_eq!(finding.found[10], "(and 990 more records, not repeated here)");
        assert_eq!(finding.warnings[20], "950 more servers were asked than are shown.");
        assert_eq!(finding.publish, None);
    }

    #[test]
    fn an_ordinary_finding_stays_as_it_is() {
        let finding = Finding {
            status: Status::Ok,
            warnings: vec!["w".to_owned()],
            found: vec!["v=DKIM1; p=x".to_owned()],
            servers: vec![ServerAnswer { server: "ns1 (192.0.2.1)".to_owned(), status: Status::Ok }],
            explanation: "Fine.".to_owned(),
            publish: Some("v=spf1 -all".to_owned()),
        };
        assert_eq!(bounded(finding.clone(), &Want::Dmarc), finding);
    }

    #[test]
    fn the_wanted_record_is_shown_among_many_others() {
        let mut found: Vec<String> = (0..50).map(|n| format!("other-verification={n}")).collect();
        found.push("v=spf1 -all".to_owned());
        let finding = Finding {
            status: Status::Ok,
            warnings: Vec::new(),
            found,
            servers: Vec::new(),
            explanation: "Fine.".to_owned(),
            publish: None,
        };
        let finding = bounded(finding, &Want::Spf { egress: Vec::new() });
        assert_eq!((finding.found[0].as_str(), finding.warnings.len()), ("v=spf1 -all", 0));
    }
}
