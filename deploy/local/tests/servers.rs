//! The private servers, really started: on this machine, or in `FANFARE_TEST_ROOT` with `FANFARE_TEST_REDIS`.
#![expect(clippy::unwrap_used, reason = "a test")]
use fanfare_local::{Broker, Publisher, Redis, Sandbox};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(20);

async fn channel(url: &str) -> Channel {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

async fn declare(channel: &Channel, queue: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
}

async fn publish(channel: &Channel, queue: &str) {
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm = channel.basic_publish("".into(), queue.into(), options, b"hello", persistent).await.unwrap();
    assert!(confirm.await.unwrap().is_ack());
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_broker_keeps_what_it_confirmed_over_a_kill_and_leaves_nothing() {
    let sandbox = Sandbox::new().unwrap();
    let begun = Instant::now();
    let mut broker = Broker::start(&sandbox).await.unwrap();
    println!("broker ready after {:?}", begun.elapsed());

    let url = broker.vhost("one two/three").await.unwrap();
    let first = channel(&url).await;
    declare(&first, "q").await;
    publish(&first, "q").await;
    assert_eq!(broker.ready("one two/three", "q").await.unwrap(), 1);
    // What advanced.config says is in force: the name by which this version knows it, and the tests' own beside it.
    for (setting, value) in [("dead_letter_worker_publisher_confirm_timeout", "5000"), ("quorum_tick_interval", "1000")]
    {
        let told = broker.ctl(&["eval", &format!("application:get_env(rabbit, {setting}).")]).await.unwrap();
        assert_eq!(told.trim(), format!("{{ok,{value}}}"), "{setting}");
    }
    let deadline = Instant::now() + SOON;
    while broker.depths("one two/three").await.unwrap().first().is_none_or(|queue| queue.ready != 1) {
        assert!(Instant::now() < deadline, "the management API never shows the message");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(broker.message_stats("one two/three").await.unwrap()["publish"], 1);

    let killed = broker.process().unwrap().pid();
    broker.kill();
    assert!(is_gone(killed));
    broker.start_again().await.unwrap();
    assert_eq!(broker.ready("one two/three", "q").await.unwrap(), 1);

    // A fresh vhost of the same name is empty.
    let url = broker.vhost("one two/three").await.unwrap();
    assert!(broker.depths("one two/three").await.unwrap().is_empty());
    assert!(broker.usage().unwrap().cpu > Duration::ZERO);

    // Nothing takes what nobody declared.
    assert!(Publisher::connect(&url).await.is_ok());

    broker.set_memory_watermark(0.000_01).await.unwrap();
    let blocked = channel(&url).await;
    declare(&blocked, "q").await;
    let held = tokio::time::timeout(Duration::from_millis(500), publish(&blocked, "q")).await;
    assert!(held.is_err(), "the memory alarm blocks publishers");
    broker.set_memory_watermark(0.4).await.unwrap();

    let begun = Instant::now();
    broker.stop().await.unwrap();
    println!("broker stopped in {:?}", begun.elapsed());
    broker.start_again().await.unwrap();
    let last = broker.process().unwrap().pid();
    drop(broker);
    assert!(is_gone(last));
}

#[tokio::test]
async fn redis_keeps_what_it_confirmed_over_a_kill() {
    async fn command(redis: &Redis, line: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
        stream.write_all(format!("{line}\r\nQUIT\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
    let sandbox = Sandbox::new().unwrap();
    let mut redis = Redis::start(&sandbox).await.unwrap();
    assert_eq!(command(&redis, "SET key value").await, "+OK\r\n+OK\r\n");
    redis.kill();
    redis.start_again().await.unwrap();
    assert_eq!(command(&redis, "GET key").await, "$5\r\nvalue\r\n+OK\r\n");
    assert!(command(&redis, "CONFIG GET maxmemory-policy").await.contains("noeviction"));
    assert!(command(&redis, "CONFIG GET appendfsync").await.contains("always"));
    redis.stop().await.unwrap();
    redis.start_again().await.unwrap();
    assert_eq!(command(&redis, "GET key").await, "$5\r\nvalue\r\n+OK\r\n");
}
