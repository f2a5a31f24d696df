//! Zone file for Cloudflare's import (DNS > Records > Import and Export): records are added, nothing is replaced; one file is for one
//! zone; names and targets end in a dot; attributes stand in the comment behind a record.
use super::{Data, Entry, Plan, Publication, by_zone, comment, removal_comments, zone_line, zone_sentence};

/// Records of other zones, and what cannot simply be added, stand in comments.
pub(super) fn write(publication: &Publication) -> String {
    let mut text = comment(&format!("Signpost: records for {}", publication.title));
    for (zone, entries) in by_zone(publication) {
        let here = zone.apex == publication.zone.apex;
        text.push_str(&comment(&zone_sentence(zone)));
        if !here {
            text.push_str(&comment("It is another zone than the one of this file: add these records there."));
        }
        for entry in entries {
            text.push_str(";\n");
            text.push_str(&comment(&entry.sentence));
            match &entry.plan {
                Plan::Add { .. } if here => {
                    text.push_str(&line(entry));
                    text.push('\n');
                }
                Plan::Add { .. } => text.push_str(&comment(&format!("  {}", line(entry)))),
                Plan::Replace { gone, .. } => {
                    text.push_str(&removal_comments(entry, gone));
                    text.push_str(&comment(&format!("  {}", line(entry))));
                }
                Plan::InPlace => text.push_str(&comment("In place already.")),
                Plan::Leave(why) => text.push_str(&comment(&format!("Left out. {why}"))),
            }
        }
    }
    text
}

/// Only a CNAME could be proxied, and a proxied one is answered with addresses in place of its target.
fn line(entry: &Entry) -> String {
    let attributes = match entry.data {
        Data::Cname(_) => " ; cf_tags=cf-proxied:false",
        Data::Txt(_) | Data::Mx { .. } => "",
    };
    format!("{}{attributes}", zone_line(entry))
}
