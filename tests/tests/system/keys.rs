//! The keys that seal secrets are changed as docs/keys.md says, and no delivery goes unsigned or is lost.

use anyhow::Result;
use fanfare_local::{Receiver, Service, Settings};

use crate::fanfare::{Fanfare, order, requests, story};

const OLD: &str = "old:b25lIGtleSBvZiBhIHRlc3QsIDMyIGJ5dGVzIGxvbmc=";
const NEW: &str = "new:YW5vdGhlciBrZXkgb2YgYSB0ZXN0LCBhcyBsb25nISE=";

async fn seal_with(fanfare: &mut Fanfare, keys: &str) -> Result<()> {
    for service in [Service::Dispatcher, Service::Api] {
        let changed = Settings::from([("FANFARE_SECRETS__KEYS".to_owned(), keys.to_owned())]);
        fanfare.services.get_mut(service).start_again_with(&changed).await?;
    }
    Ok(())
}

#[test]
fn a_key_that_is_added_behind_and_then_put_first_costs_no_delivery_and_one_taken_away_makes_them_wait() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_SECRETS__KEYS", OLD)]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let (first, second) = (Receiver::start().await?, Receiver::start().await?);
        let sealed_old = tenant.webhook(&first, "order.paid").await?;
        seal_with(&mut fanfare, &format!("{OLD},{NEW}")).await?;
        tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&first, 1).await?;
        seal_with(&mut fanfare, &format!("{NEW},{OLD}")).await?;
        let sealed_new = tenant.webhook(&second, "order.paid").await?;
        tenant.client.publish(&order("order.paid", 2)).await?;
        requests(&first, 2).await?[1].verify(&sealed_old.secret)?;
        requests(&second, 1).await?[0].verify(&sealed_new.secret)?;

        // What docs/keys.md has one look for in Redis.
        let mut redis = fanfare.redis_connection().await?;
        let stored: Vec<String> = redis::cmd("HVALS").arg("f:{acme}:w").query_async(&mut redis).await?;
        for (webhook, key) in [(&sealed_old, "old"), (&sealed_new, "new")] {
            let its = stored.iter().find(|text| text.contains(&webhook.id)).map(String::as_str).unwrap_or_default();
            assert!(its.contains(&format!(r#""secret":"1.{key}."#)), "{its}");
        }

        seal_with(&mut fanfare, NEW).await?;
        let event = tenant.client.publish(&order("order.paid", 3)).await?;
        requests(&second, 2).await?;
        assert_eq!(first.count(), 2, "the old key is away");
        seal_with(&mut fanfare, &format!("{NEW},{OLD}")).await?;
        requests(&first, 3).await?[2].verify(&sealed_old.secret)?;
        tenant.delivery_that_is(&event, "delivered").await?;
        fanfare.balance().await
    });
}
