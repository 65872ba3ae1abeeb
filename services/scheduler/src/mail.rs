//! Mails: what they say, and the way to the mail server.

use std::time::Duration;

use anyhow::Context;
use fanfare_domain::{DeliveryId, Target, TenantId, Webhook, notice::NoticeKind, span::rfc3339};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
};

/// How long the mail server may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// And for the whole mail; well within what a claim of it lasts.
const SENT_WITHIN: Duration = Duration::from_secs(20);
/// A mail server's words go into the log so far.
const LOGGED_CHARS: usize = 200;

/// Why a mail was not sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// The mail server is away, or wants us to come later.
    ForNow(String),
    /// It will never take this mail.
    Ever(String),
}

/// The way to the mail server.
pub(crate) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    /// Checks the settings; connects for each mail.
    pub(crate) fn new(url: &str, from: &str) -> anyhow::Result<Self> {
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
            .map_err(|why| {
                anyhow::anyhow!("setting FANFARE_SMTP__URL: {why}; as in `smtp://host:port`, `smtps://host:port`")
            })?
            .timeout(Some(ANSWER_WITHIN))
            .build();
        let from =
            from.parse().context("setting FANFARE_SMTP__FROM: must be an address, `Fanfare <fanfare@example.com>`")?;
        Ok(Self { transport, from })
    }

    /// Sends a mail; `Ok` once the mail server has taken it.
    pub(crate) async fn send(&self, to: &str, text: Text) -> Result<(), NotSent> {
        let to: Mailbox = to.parse().map_err(|_| NotSent::Ever("its address is none".to_owned()))?;
        let mut message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(text.subject)
            .header(ContentType::TEXT_PLAIN)
            .message_id(None)
            .body(text.body)
            .map_err(|error| NotSent::Ever(error.to_string()))?;
        // So that no vacation notice comes back (RFC 3834 5).
        let name = HeaderName::new_from_ascii_str("Auto-Submitted");
        message.headers_mut().insert_raw(HeaderValue::new(name, "auto-generated".to_owned()));
        match tokio::time::timeout(SENT_WITHIN, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let why: String = error.to_string().chars().take(LOGGED_CHARS).collect();
                let status = error.status().map(u16::from);
                Err(if is_final(status) { NotSent::Ever(why) } else { NotSent::ForNow(why) })
            }
            Err(_) => Err(NotSent::ForNow(format!("no end within {} s", SENT_WITHIN.as_secs()))),
        }
    }
}

/// Whether a mail server's answer is its last word on a mail: not where it is about us, which an operator can mend (530 to
/// 538: authentication; RFC 4954 6).
fn is_final(status: Option<u16>) -> bool {
    status.is_some_and(|status| (500..600).contains(&status) && !(530..=538).contains(&status))
}

/// What a mail says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) subject: String,
    pub(crate) body: String,
}

/// What a mail is about.
pub(crate) struct About<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) webhook: &'a Webhook,
    pub(crate) kind: NoticeKind,
    pub(crate) delivery: &'a DeliveryId,
    /// Unix milliseconds.
    pub(crate) at_ms: u64,
    /// The console's address, as people reach it.
    pub(crate) console: Option<&'a str>,
}

/// The mail on this. Neither payloads nor the whole target, which may hold a secret.
pub(crate) fn text(about: &About<'_>) -> Text {
    let (webhook, id) = (about.webhook, &about.webhook.id);
    let name: String = webhook.name.as_deref().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    let called = if name.is_empty() { id.to_string() } else { format!("{name} ({id})") };
    let (short, happened, to_do) = match about.kind {
        NoticeKind::Failing => (
            "is failing",
            "A request to the webhook failed, for the first time after a success. It is tried again by its schedule.",
            "See what the receiver answered in the delivery's log, and mend the receiver. Nothing is lost meanwhile.",
        ),
        NoticeKind::Exhausted => (
            "has lost a delivery",
            "A delivery to the webhook was tried as often as its schedule says, and has failed for good.",
            "Mend the receiver; the delivery is not tried again by itself.",
        ),
        NoticeKind::Disabled => (
            "is disabled",
            "The webhook is disabled: its receiver answered that it is gone, or a delivery used up its schedule. It gets no \
             requests any more; its deliveries are held.",
            "Mend the receiver, then enable the webhook: what is held is delivered, oldest first.",
        ),
    };
    let mut body = format!(
        "Tenant:    {}\nWebhook:   {called}\nReceiver:  {}\nWhen:      {}\nDelivery:  {}\n\nWhat happened\n{happened}\n\n\
         What to do\n{to_do}\n",
        about.tenant,
        host(&webhook.target),
        rfc3339(about.at_ms),
        about.delivery,
    );
    if let Some(console) = about.console {
        body.push_str(&format!("\n{}/\n", console.trim_end_matches('/')));
    }
    body.push_str("\nAt most one mail an hour is sent about each webhook and kind of trouble.\n");
    Text { subject: format!("Webhook {called} {short}"), body }
}

fn host(target: &Target) -> String {
    let url = target.url();
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn about(kind: NoticeKind, console: Option<&str>) -> Text {
        let webhook: Webhook = serde_json::from_value(json!({
            "id": "5ceec43ce1b5b412ba9d0e73", "name": "My\nhook", "target": "https://example.com:8443/a/token?key=1",
            "method": "POST", "headers": [["X-Key", "hidden"]], "triggers": ["t"], "payload": "full", "active": true,
            "revision": 1, "createdAt": 1, "updatedAt": 1,
        }))
        .unwrap();
        let (tenant, delivery) =
            ("acme".parse().unwrap(), "01K3V7M2Z8Q4R6T1W9X0Y5B3CD_5ceec43ce1b5b412ba9d0e73".parse().unwrap());
        text(&About {
            tenant: &tenant,
            webhook: &webhook,
            kind,
            delivery: &delivery,
            at_ms: 1_700_000_000_000,
            console,
        })
    }

    #[test]
    fn a_mail_says_what_happened_and_no_secret() {
        for kind in [NoticeKind::Failing, NoticeKind::Exhausted, NoticeKind::Disabled] {
            let Text { subject, body } = about(kind, Some("https://console.example.com/"));
            assert!(subject.starts_with("Webhook Myhook (5ceec43ce1b5b412ba9d0e73) "), "{subject}");
            for part in
                ["acme", "example.com:8443", "2023-11-14T22:13:20.000Z", "What to do", "https://console.example.com/\n"]
            {
                assert!(body.contains(part), "`{part}` in {body}");
            }
            for secret in ["token", "key=1", "hidden"] {
                assert!(!body.contains(secret), "`{secret}` in {body}");
            }
        }
        assert!(!about(NoticeKind::Failing, None).body.contains("http"));
    }

    #[test]
    fn what_an_operator_can_mend_is_tried_again() {
        for (status, last_word) in [
            (None, false),
            (Some(421), false),
            (Some(451), false),
            (Some(535), false),
            (Some(550), true),
            (Some(554), true),
        ] {
            assert_eq!(is_final(status), last_word, "{status:?}");
        }
    }

    #[test]
    fn settings_that_lead_nowhere_are_refused() {
        assert!(Mailer::new("smtps://user:word@example.com", "Fanfare <a@example.com>").is_ok());
        let refused = Mailer::new("http://user:word@example.com", "a@example.com").err().map(|why| format!("{why:#}"));
        assert!(refused.is_some_and(|why| !why.contains("word")), "a password is not repeated");
        assert!(Mailer::new("smtp://example.com:25", "nobody").is_err());
    }
}
