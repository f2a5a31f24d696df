//! `signpost master-key rotate` and `signpost master-key status`: the change from one master key to the next. docs/master-key.md has the steps.
use crate::config::{ConfigError, StoreArgs};
use crate::master_key::{self, KeyFiles, former_missing};
use crate::{Outcome, offline_engine, open_store, print, telemetry};
use clap::Subcommand;
use signpost_engine::master_key::{ChangeBegun, SealedCounts};
use signpost_engine::{Engine, MasterKeyState};

/// `signpost master-key ...`.
#[derive(Subcommand)]
pub(crate) enum MasterKeyCommand {
    /// Change to the master key in SIGNPOST_MASTER_KEY_NEXT_FILE, which every process must know by now; workers then seal all keys anew
    Rotate(StoreArgs),
    /// Say how far a change of the master key is
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
}

pub(crate) async fn run(command: MasterKeyCommand) -> Outcome<()> {
    match command {
        MasterKeyCommand::Rotate(args) => rotate(&args).await,
        MasterKeyCommand::Status { json, store } => status(json, &store).await,
    }
}

async fn rotate(args: &StoreArgs) -> Outcome<()> {
    telemetry::install(&args.log, args.log_format)?;
    let store = open_store(args, false).await?;
    let files = args.master_key_files();
    let engine = offline_engine(store.clone())?;
    unseal(&engine, &files).await?;
    let said = match engine.begin_master_key_change().await? {
        ChangeBegun::Begun => {
            "The next master key is in use now, in every process within seconds. Keep both files until `signpost master-key status` says \
             that the former one is needed no more."
                .to_owned()
        }
        ChangeBegun::NoNextKey => {
            return Err(Box::new(ConfigError(format!(
                "there is no next master key in {}; make one (`(umask 077; head -c 32 /dev/urandom | base64 > FILE)`), back it up, and give \
                 it to every process before",
                files.next.display()
            ))));
        }
        ChangeBegun::InUseAlready => {
            return Err(Box::new(ConfigError(format!("{} holds the master key in use", files.next.display()))));
        }
        ChangeBegun::UnderWay => {
            return Err(Box::new(ConfigError(
                "a change of the master key is under way; see `signpost master-key status`".into(),
            )));
        }
    };
    store.close().await;
    print(&said)
}

async fn status(json: bool, args: &StoreArgs) -> Outcome<()> {
    telemetry::install(&args.log, args.log_format)?;
    let store = open_store(args, false).await?;
    let engine = offline_engine(store.clone())?;
    unseal(&engine, &args.master_key_files()).await?;
    let mut counts = engine.sealed_counts().await?;
    if counts.under_others > 0 {
        // A change may have begun between the look at what is needed and the count.
        unseal(&engine, &args.master_key_files()).await?;
        counts = engine.sealed_counts().await?;
    }
    store.close().await;
    show(&counts, json)?;
    match counts.under_others {
        0 => Ok(()),
        lost => Err(format!(
            "{lost} keys are sealed under a master key that no change knows: they do not open. Restore their rows from a backup of the \
             database, or change to that master key if you have it (docs/master-key.md); else revoke these keys"
        )
        .into()),
    }
}

fn show(counts: &SealedCounts, json: bool) -> Outcome<()> {
    if json {
        let SealedCounts { in_use, former, next, under_in_use, under_former, under_others } = counts;
        let text = serde_json::json!({
            "in_use": in_use, "former": former, "next": next,
            "sealed_under": {"in_use": under_in_use, "former": under_former, "others": under_others},
        });
        return print(&text.to_string());
    }
    print(&describe(counts))
}

/// For people. A name is what sealed octets begin with, in hex.
fn describe(counts: &SealedCounts) -> String {
    let mut text = format!("in use   {}   {} keys", counts.in_use, counts.under_in_use);
    if let Some(former) = &counts.former {
        text.push_str(&format!("\nformer   {former}   {} keys", counts.under_former));
    }
    if let Some(next) = &counts.next {
        text.push_str(&format!("\nnext     {next}"));
    }
    if counts.under_others > 0 {
        text.push_str(&format!("\nothers                      {} keys, which do not open", counts.under_others));
    }
    text.push_str(match &counts.former {
        Some(_) => "\nA change is under way: keep the files of both master keys.",
        None => "\nNo change is under way: only the master key in use is needed.",
    });
    text
}

async fn unseal(engine: &Engine, files: &KeyFiles) -> Outcome<()> {
    let (current, next) = (master_key::read(&files.current)?, master_key::read(&files.next)?);
    let refused = match engine.offer_master_keys(current, next).await? {
        MasterKeyState::Unsealed => return Ok(()),
        MasterKeyState::Sealed => {
            format!(
                "sealed: neither {} nor {} holds the master key of this database. Put its file back, from the backup if need be. A \
                 process that is running may know it still (its /readyz says so): stop none before",
                files.current.display(),
                files.next.display()
            )
        }
        MasterKeyState::FormerMissing => former_missing(files),
        MasterKeyState::NeverMade => "this database has never seen a master key".to_owned(),
    };
    Err(refused.into())
}
