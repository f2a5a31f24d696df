//! Master-file fragment (RFC 1035 5): absolute names and one record a line, so that it is right at any place of the zone's file.
use super::{Plan, Publication, by_zone, comment, removal_comments, zone_line, zone_sentence};

/// What cannot simply be added stands in comments.
pub(super) fn write(publication: &Publication) -> String {
    let mut text = comment(&format!("Signpost: records for {}", publication.title));
    for (zone, entries) in by_zone(publication) {
        text.push_str(&comment(&zone_sentence(zone)));
        for entry in entries {
            text.push_str(";\n");
            text.push_str(&comment(&entry.sentence));
            match &entry.plan {
                Plan::Add { .. } => {
                    text.push_str(&zone_line(entry));
                    text.push('\n');
                }
                Plan::Replace { gone, .. } => {
                    text.push_str(&removal_comments(entry, gone));
                    text.push_str(&comment(&format!("  {}", zone_line(entry))));
                }
                Plan::InPlace => text.push_str(&comment("In place already.")),
                Plan::Leave(why) => text.push_str(&comment(&format!("Left out. {why}"))),
            }
        }
    }
    text
}
