//! Publishing over AMQP, as an upstream system does.
use crate::client::Event;
use anyhow::{Context, Result, bail};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;

const EXCHANGE: &str = "fanfare.ingest";

/// A connection that publishes to the ingest exchange with confirms.
#[derive(Debug)]
pub struct Publisher {
    _connection: Connection,
    channel: Channel,
}

impl Publisher {
    /// Connects to a vhost's URL.
    pub async fn connect(amqp_url: &str) -> Result<Self> {
        let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await;
        let connection = connection.context("connecting to RabbitMQ")?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { _connection: connection, channel })
    }

    /// Publishes an event in structured mode; returns once the broker has confirmed it.
    pub async fn publish(&self, tenant: &str, event: &Event) -> Result<()> {
        let properties = BasicProperties::default().with_content_type("application/cloudevents+json".into());
        self.send(&routing_key(tenant, event), event.to_json().as_bytes(), properties).await
    }

    /// Publishes an event in binary mode: the attributes as headers `cloudEvents:<name>`, the data as body.
    pub async fn publish_binary(&self, tenant: &str, event: &Event) -> Result<()> {
        let mut headers = FieldTable::default();
        for (name, value) in event.attributes() {
            let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            headers.insert(format!("cloudEvents:{name}").into(), AMQPValue::LongString(LongString::from(text)));
        }
        let properties = BasicProperties::default().with_content_type("application/json".into()).with_headers(headers);
        let body = event.data().map(Value::to_string).unwrap_or_default();
        self.send(&routing_key(tenant, event), body.as_bytes(), properties).await
    }

    /// Publishes any body with any properties, persistently; fails where the broker refuses or routes it nowhere.
    pub async fn send(&self, routing_key: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
        let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
        let persistent = properties.with_delivery_mode(2);
        let sent = self.channel.basic_publish(EXCHANGE.into(), routing_key.into(), mandatory, body, persistent);
        match sent.await?.await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => bail!("no queue takes `{routing_key}`"),
            Confirmation::Nack(_) | Confirmation::NotRequested => bail!("the broker refused `{routing_key}`"),
        }
    }
}

fn routing_key(tenant: &str, event: &Event) -> String {
    format!("{tenant}.{}", event.kind())
}
