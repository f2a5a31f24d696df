//! Script of nsupdate (RFC 2136). It deletes what is ours, and what ours replaces if it still stands exactly so.
use super::{Entry, Plan, Publication, Standing, TTL, Zone, by_zone, comment, type_of, zone_data, zone_sentence};

/// DNS's port, which nsupdate takes unless told.
const DNS_PORT: u16 = 53;

/// One update per zone for what is added; a replacement is an update of its own, since it is refused if the zone has changed since.
pub(super) fn write(publication: &Publication) -> String {
    let mut text = comment(&format!("Signpost: records for {}", publication.title));
    text.push_str(&comment("Run it with the key that may update the zone: nsupdate -k KEYFILE THIS_FILE"));
    for (zone, entries) in by_zone(publication) {
        text.push_str(&comment(&zone_sentence(zone)));
        text.push_str(&to_whom(zone));
        let (replacements, others): (Vec<&Entry>, Vec<&Entry>) =
            entries.into_iter().partition(|entry| !entry.name_is_ours && matches!(entry.plan, Plan::Replace { .. }));
        let mut sent = false;
        for entry in others {
            text.push_str(&comment(&entry.sentence));
            match &entry.plan {
                Plan::Add { .. } | Plan::Replace { .. } => {
                    text.push_str(&update(entry));
                    sent = true;
                }
                Plan::InPlace => text.push_str(&comment("In place already.")),
                Plan::Leave(why) => text.push_str(&comment(&format!("Left out. {why}"))),
            }
        }
        if sent {
            text.push_str("send\n");
        }
        replacements.into_iter().for_each(|entry| text.push_str(&replacement(entry)));
    }
    text
}

/// Without these lines nsupdate asks DNS itself.
fn to_whom(zone: &Zone) -> String {
    if !zone.found {
        return comment("nsupdate finds server and zone by itself; name them here if it does not.");
    }
    let server = match &zone.primary {
        None => comment("Name the server here that takes updates, if it is not the SOA's."),
        Some((host, None)) => format!("server {host}\n"),
        Some((host, Some(address))) => {
            let port = if address.port() == DNS_PORT { String::new() } else { format!(" {}", address.port()) };
            comment(&format!("Primary server by the SOA: {host}")) + &format!("server {}{port}\n", address.ip())
        }
    };
    format!("{server}zone {}.\n", zone.apex)
}

/// At a name that is ours everything goes: a CNAME would make the server ignore what is added (RFC 2136 3.4.2.2).
fn update(entry: &Entry) -> String {
    let mut text = String::new();
    if entry.name_is_ours {
        for kind in ["TXT", "CNAME"] {
            text.push_str(&format!("update delete {}. {kind}\n", entry.name));
        }
    }
    text + &addition(entry)
}

fn addition(entry: &Entry) -> String {
    format!("update add {}. {TTL} IN {} {}\n", entry.name, type_of(&entry.data), zone_data(&entry.data))
}

/// RFC 2136 2.4.2: done only if exactly this stands there.
fn replacement(entry: &Entry) -> String {
    let Plan::Replace { gone, beside } = &entry.plan else { return String::new() };
    let of_type = |record: &&Standing| type_of(&record.data) == type_of(&entry.data);
    let mut text = comment(&entry.sentence);
    text.push_str(&comment("It replaces what stands there; refused with NXRRSET if that has changed meanwhile."));
    for record in gone.iter().chain(beside).filter(of_type) {
        let (kind, data) = (type_of(&record.data), zone_data(&record.data));
        text.push_str(&format!("prereq yxrrset {}. IN {kind} {data}\n", entry.name));
    }
    for record in gone {
        let (kind, data) = (type_of(&record.data), zone_data(&record.data));
        text.push_str(&format!("update delete {}. IN {kind} {data}\n", entry.name));
    }
    text + &addition(entry) + "send\n"
}
