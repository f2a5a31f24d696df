//! One mail transaction (RFC 5321 3.3) with a result for each recipient, pipelined where the server offers it (RFC 2920).
use super::payload::{DotStuffer, Payload};
use super::reply::{EnhancedCode, Reply, ReplyClass};
use super::retry::{Command, is_permanent, is_too_many_recipients};
use super::session::Session;
use super::wire::{Trouble, Wait};
use signpost_dkim::Mailbox;
use std::time::Duration;

/// RFC 5321 4.5.3.2.2.
const MAIL: Wait = Wait { awaiting: "the reply to MAIL", limit: Duration::from_secs(300) };
/// RFC 5321 4.5.3.2.3.
const RCPT: Wait = Wait { awaiting: "the reply to RCPT", limit: Duration::from_secs(300) };
/// RFC 5321 4.5.3.2.4.
const DATA: Wait = Wait { awaiting: "the reply to DATA", limit: Duration::from_secs(120) };
/// RFC 5321 4.5.3.2.5.
const BLOCK: Wait = Wait { awaiting: "a block of the message to be taken", limit: Duration::from_secs(180) };
/// RFC 5321 4.5.3.2.6.
const CONTENT: Wait = Wait { awaiting: "the reply to the final dot", limit: Duration::from_secs(600) };
const RSET: Wait = Wait { awaiting: "the reply to RSET", limit: Duration::from_secs(120) };
/// After a failed write a server may have said why.
const PARTING: Wait = Wait { awaiting: "a parting reply", limit: Duration::from_secs(5) };

/// Octets of the message stuffed and written at a time.
const BLOCK_OCTETS: usize = 32 * 1024;

/// One envelope and its message.
#[derive(Debug, Clone)]
pub struct Transaction<'a> {
    /// Reverse-path. Addresses are mailboxes, so that no CR, LF or `>` can get into a command.
    pub mail_from: &'a Mailbox,
    /// Forward-paths, at least one.
    pub recipients: Vec<&'a Mailbox>,
    /// The message.
    pub payload: &'a Payload,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientResult {
    /// The server took responsibility (RFC 5321 4.2.5).
    Accepted {
        /// Reply to the final dot.
        reply: Reply,
    },
    /// The server, or we in its place, said no.
    Rejected {
        /// The reply that said so.
        reply: Reply,
        /// Trying again is pointless.
        permanent: bool,
    },
    /// No verdict; never a bounce.
    ConnectionTrouble {
        /// What happened.
        trouble: Trouble,
        /// The final dot was sent and its reply did not come: the message may have been delivered (RFC 5321 4.5.3.2.6).
        uncertain: bool,
    },
}

/// A dialogue that broke off.
struct Broken {
    trouble: Trouble,
    uncertain: bool,
}

impl From<Trouble> for Broken {
    fn from(trouble: Trouble) -> Self {
        Self { trouble, uncertain: false }
    }
}

/// Results while a dialogue goes on.
struct Slots<'a> {
    recipients: &'a [&'a Mailbox],
    results: Vec<Option<RecipientResult>>,
    too_many: Vec<usize>,
}

impl<'a> Slots<'a> {
    fn new(recipients: &'a [&'a Mailbox]) -> Self {
        Self { recipients, results: vec![None; recipients.len()], too_many: Vec::new() }
    }
    /// Recipients without a result.
    fn open(&self) -> Vec<usize> {
        self.results.iter().enumerate().filter(|(_, result)| result.is_none()).map(|(index, _)| index).collect()
    }
    fn set(&mut self, index: usize, result: RecipientResult) {
        if let Some(slot) = self.results.get_mut(index) {
            *slot = Some(result);
        }
    }
    fn reject(&mut self, index: usize, command: Command, reply: &Reply) {
        let permanent = is_permanent(command, reply);
        self.set(index, RecipientResult::Rejected { reply: reply.clone(), permanent });
    }
    fn reject_open(&mut self, command: Command, reply: &Reply) {
        for index in self.open() {
            self.reject(index, command, reply);
        }
    }
    fn refuse(&mut self, index: usize, reply: Reply) {
        self.set(index, RecipientResult::Rejected { reply, permanent: true });
    }
}

impl Session {
    /// Offers the message to every recipient. The results are in the order of the recipients. Where the server takes only
    /// so many recipients at a time, the rest goes into further transactions (RFC 5321 4.5.3.1.10).
    pub async fn send(&mut self, transaction: &Transaction<'_>) -> Vec<RecipientResult> {
        let mut slots = Slots::new(&transaction.recipients);
        loop {
            let before = slots.open().len();
            self.transact(transaction, &mut slots).await;
            let accepted = slots.results.iter().flatten().any(|r| matches!(r, RecipientResult::Accepted { .. }));
            let again = std::mem::take(&mut slots.too_many);
            // Each round must have got somewhere, else a server that says 452 to everything would be asked for ever.
            if self.closed || !accepted || again.is_empty() || again.len() >= before {
                break;
            }
            for index in again {
                if let Some(slot) = slots.results.get_mut(index) {
                    *slot = None;
                }
            }
        }
        let unanswered = || RecipientResult::ConnectionTrouble {
            trouble: Trouble::Protocol { awaiting: RCPT.awaiting, cause: "no reply for this recipient".to_owned() },
            uncertain: false,
        };
        slots.results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect()
    }

    async fn transact(&mut self, transaction: &Transaction<'_>, slots: &mut Slots<'_>) {
        self.refuse_what_does_not_fit(transaction, slots);
        if slots.open().is_empty() {
            return;
        }
        if let Err(broken) = self.dialogue(transaction, slots).await {
            self.closed = true;
            for index in slots.open() {
                let Broken { trouble, uncertain } = &broken;
                slots
                    .set(index, RecipientResult::ConnectionTrouble { trouble: trouble.clone(), uncertain: *uncertain });
            }
        }
    }

    /// What the server's extensions rule out. A message is never converted: that would break its signature.
    fn refuse_what_does_not_fit(&self, transaction: &Transaction<'_>, slots: &mut Slots<'_>) {
        let payload = transaction.payload;
        for index in slots.open() {
            let utf8 = payload.has_utf8_header()
                || transaction.mail_from.needs_smtputf8()
                || slots.recipients.get(index).is_some_and(|mailbox| mailbox.needs_smtputf8());
            if utf8 && !self.extensions.smtputf8 {
                // RFC 6531 3.2, 4.2.
                let text =
                    "an address of the message has a non-ASCII local part and the server does not offer SMTPUTF8";
                slots.refuse(index, Reply::ours(553, EnhancedCode::new(5, 6, 7), text));
            } else if payload.is_eight_bit() && !self.extensions.eight_bit_mime {
                // RFC 6152 3, RFC 3463 3.7.
                let text = "the server does not offer 8BITMIME, and a signed message is not converted; send it as quoted-printable or base64";
                slots.refuse(index, Reply::ours(554, EnhancedCode::new(5, 6, 3), text));
            } else if self.extensions.max_size.is_some_and(|limit| payload.size() > limit) {
                // RFC 1870 6.1.
                let limit = self.extensions.max_size.unwrap_or(0);
                let text = format!("the message has {} octets and the server takes at most {limit}", payload.size());
                slots.refuse(index, Reply::ours(552, EnhancedCode::new(5, 3, 4), text));
            }
        }
    }

    async fn dialogue(&mut self, transaction: &Transaction<'_>, slots: &mut Slots<'_>) -> Result<(), Broken> {
        if self.needs_reset {
            self.reset(slots).await?;
            if self.closed {
                return Ok(());
            }
        }
        let offered = slots.open();
        let mail = self.mail_command(transaction, slots);
        let rcpts: Vec<String> = offered.iter().filter_map(|index| rcpt_command(slots, *index)).collect();
        if self.extensions.pipelining {
            // RFC 2920 3.1: DATA may end the group.
            self.wire.write(format!("{mail}{}DATA\r\n", rcpts.concat()).as_bytes(), MAIL).await?;
        } else {
            self.command(&mail, MAIL).await?;
        }
        self.needs_reset = true;
        let mail_ok = self.mail_reply(slots).await?;
        if self.closed || !(mail_ok || self.extensions.pipelining) {
            return Ok(());
        }
        let mut accepted = Vec::new();
        for (index, rcpt) in offered.iter().zip(&rcpts) {
            if !self.extensions.pipelining {
                self.command(rcpt, RCPT).await?;
            }
            let reply = self.wire.reply(RCPT).await?;
            if self.rcpt_reply(*index, &reply, mail_ok, slots)? {
                accepted.push(*index);
            }
            if self.closed {
                return Ok(());
            }
        }
        if accepted.is_empty() {
            return if self.extensions.pipelining { self.unwanted_data().await } else { Ok(()) };
        }
        self.content(transaction.payload, slots).await
    }

    /// RFC 5321 4.1.1.5.
    async fn reset(&mut self, slots: &mut Slots<'_>) -> Result<(), Broken> {
        self.command("RSET\r\n", RSET).await?;
        let reply = self.wire.reply(RSET).await?;
        match reply.class() {
            ReplyClass::Completion => self.needs_reset = false,
            ReplyClass::Transient if reply.closes() => self.close(slots, Command::Mail, &reply),
            ReplyClass::Transient | ReplyClass::Permanent | ReplyClass::Intermediate => {
                return Err(unexpected(RSET, &reply));
            }
        }
        Ok(())
    }

    fn mail_command(&self, transaction: &Transaction<'_>, slots: &Slots<'_>) -> String {
        let mut command = format!("MAIL FROM:<{}>", transaction.mail_from.address());
        if self.extensions.size {
            command.push_str(&format!(" SIZE={}", transaction.payload.size()));
        }
        if transaction.payload.is_eight_bit() {
            command.push_str(" BODY=8BITMIME");
        }
        let utf8 = |index: &usize| slots.recipients.get(*index).is_some_and(|mailbox| mailbox.needs_smtputf8());
        // RFC 6531 3.4: asked for only where an address or the header needs it.
        if transaction.payload.has_utf8_header()
            || transaction.mail_from.needs_smtputf8()
            || slots.open().iter().any(utf8)
        {
            command.push_str(" SMTPUTF8");
        }
        command.push_str("\r\n");
        command
    }

    /// True if MAIL was accepted.
    async fn mail_reply(&mut self, slots: &mut Slots<'_>) -> Result<bool, Broken> {
        let reply = self.wire.reply(MAIL).await?;
        match reply.class() {
            ReplyClass::Completion => return Ok(true),
            ReplyClass::Intermediate => return Err(unexpected(MAIL, &reply)),
            ReplyClass::Transient if reply.closes() => self.close(slots, Command::Mail, &reply),
            ReplyClass::Transient | ReplyClass::Permanent if self.relay => {
                slots.reject_open(Command::MailToRelay, &reply)
            }
            ReplyClass::Transient | ReplyClass::Permanent => slots.reject_open(Command::Mail, &reply),
        }
        Ok(false)
    }

    /// True if the recipient was accepted. After a refused MAIL the replies are read and mean nothing.
    fn rcpt_reply(
        &mut self,
        index: usize,
        reply: &Reply,
        mail_ok: bool,
        slots: &mut Slots<'_>,
    ) -> Result<bool, Broken> {
        match reply.class() {
            ReplyClass::Completion => return Ok(mail_ok),
            ReplyClass::Intermediate => return Err(unexpected(RCPT, reply)),
            ReplyClass::Transient if reply.closes() => self.close(slots, Command::Rcpt, reply),
            ReplyClass::Transient | ReplyClass::Permanent if !mail_ok => {}
            ReplyClass::Transient | ReplyClass::Permanent => {
                if is_too_many_recipients(reply) {
                    slots.too_many.push(index);
                }
                slots.reject(index, Command::Rcpt, reply);
            }
        }
        Ok(false)
    }

    /// RFC 2920 3.1: DATA went out in the group and no recipient was accepted. A server that says 354 nevertheless gets a
    /// lone dot, and its reply is read, so that no later reply is taken for another.
    async fn unwanted_data(&mut self) -> Result<(), Broken> {
        let mut reply = self.wire.reply(DATA).await?;
        if reply.class() == ReplyClass::Intermediate {
            self.wire.write(b".\r\n", DATA).await?;
            reply = self.wire.reply(CONTENT).await?;
        }
        self.closed |= reply.closes();
        Ok(())
    }

    /// DATA, the message, the final dot.
    async fn content(&mut self, payload: &Payload, slots: &mut Slots<'_>) -> Result<(), Broken> {
        if !self.extensions.pipelining {
            self.command("DATA\r\n", DATA).await?;
        }
        let reply = self.wire.reply(DATA).await?;
        match reply.class() {
            ReplyClass::Intermediate => {}
            ReplyClass::Completion => return Err(unexpected(DATA, &reply)),
            ReplyClass::Transient if reply.closes() => {
                self.close(slots, Command::Data, &reply);
                return Ok(());
            }
            ReplyClass::Transient | ReplyClass::Permanent => {
                slots.reject_open(Command::Data, &reply);
                return Ok(());
            }
        }
        self.quiet(CONTENT)?;
        let reply = match self.write_content(payload).await {
            Ok(()) => self.wire.reply_to_dot(CONTENT).await.map_err(|trouble| Broken { trouble, uncertain: true })?,
            Err(broken) => self.parting_reply(broken).await?,
        };
        match reply.class() {
            ReplyClass::Completion => {
                self.needs_reset = false;
                for index in slots.open() {
                    slots.set(index, RecipientResult::Accepted { reply: reply.clone() });
                }
            }
            ReplyClass::Intermediate => {
                return Err(Broken { uncertain: true, ..unexpected(CONTENT, &reply) });
            }
            ReplyClass::Transient if reply.closes() => self.close(slots, Command::Content, &reply),
            ReplyClass::Transient | ReplyClass::Permanent => slots.reject_open(Command::Content, &reply),
        }
        Ok(())
    }

    async fn write_content(&mut self, payload: &Payload) -> Result<(), Broken> {
        let mut stuffer = DotStuffer::new();
        let mut block = Vec::with_capacity(BLOCK_OCTETS + 1024);
        for piece in payload.octets().chunks(BLOCK_OCTETS) {
            // The last piece stays in `block` and leaves together with the final dot.
            if !block.is_empty() {
                self.wire.write(&block, BLOCK).await?;
                block.clear();
            }
            stuffer.push(piece, &mut block);
        }
        stuffer.finish(&mut block);
        self.wire.write(&block, BLOCK).await.map_err(|trouble| Broken { trouble, uncertain: true })
    }

    /// A server that closed in the middle of the message may have said why; a negative reply is then the verdict.
    async fn parting_reply(&mut self, broken: Broken) -> Result<Reply, Broken> {
        self.closed = true;
        if broken.trouble == Trouble::Aborted {
            return Err(broken);
        }
        match self.wire.reply(PARTING).await {
            Ok(reply) if matches!(reply.class(), ReplyClass::Transient | ReplyClass::Permanent) => Ok(reply),
            Ok(_) | Err(_) => Err(broken),
        }
    }

    /// A command outside a pipelined group. Unread octets before it would shift every later reply.
    async fn command(&mut self, line: &str, wait: Wait) -> Result<(), Broken> {
        self.quiet(wait)?;
        Ok(self.wire.write(line.as_bytes(), wait).await?)
    }

    fn quiet(&self, wait: Wait) -> Result<(), Broken> {
        if self.wire.has_unread() {
            let cause = "the server sent more replies than it was asked for".to_owned();
            return Err(Trouble::Protocol { awaiting: wait.awaiting, cause }.into());
        }
        Ok(())
    }

    /// RFC 5321 3.8: after 421 the server closes the connection; nothing more is read from it.
    fn close(&mut self, slots: &mut Slots<'_>, command: Command, reply: &Reply) {
        self.closed = true;
        slots.reject_open(command, reply);
    }
}

fn rcpt_command(slots: &Slots<'_>, index: usize) -> Option<String> {
    slots.recipients.get(index).map(|mailbox| format!("RCPT TO:<{}>\r\n", mailbox.address()))
}

fn unexpected(wait: Wait, reply: &Reply) -> Broken {
    let cause = format!("{} is no answer to it", reply.code);
    Trouble::Protocol { awaiting: wait.awaiting, cause }.into()
}
