//! The one form of a delivery's record, as the scripts write it.

use anyhow::Result;

use crate::fanfare::{Fanfare, story};

const PRELUDE: &str = include_str!("../../../shared/store/src/scripts/prelude.lua");

/// Each step of a delivery, by the short way and by the long one.
const BOTH_WAYS: &str = r"
local fresh_long = written(fresh('1700000000001', 'ab12:full'))
local claimed = read(fresh_long)
claimed.lease, claimed.token, claimed.claims, claimed.first = '1700000020000', 'c0ffee.1f', 1, NOW
local claimed_long = written(claimed)
local delivered = read(claimed_long)
delivered.lease, delivered.token, delivered.claims = '0', '-', 0
delivered.state, delivered.final = 'd', NOW
local retried = read(claimed_long)
retried.attempt = 2
local raised = read(fresh_long)
raised.epoch = 1
local function text(value) return value or 'the long way' end
return {
  fresh_long, fresh_text('1700000000001', 'ab12:full'),
  claimed_long, claimed_text(fresh_long, '1700000020000', 'c0ffee.1f'),
  written(delivered), delivered_text(claimed_long, 'c0ffee.1f'),
  'the long way', text(claimed_text(claimed_long, '1700000020000', 'c0ffee.20')),
  'the long way', text(claimed_text(written(raised), '1700000020000', 'c0ffee.20')),
  'the long way', text(delivered_text(claimed_long, 'c0ffee.20')),
  'the long way', text(delivered_text(written(retried), 'c0ffee.1f')),
  'the long way', text(delivered_text(written(delivered), '-')),
}
";

#[test]
fn the_short_way_leaves_the_record_that_the_long_way_leaves() {
    story(async {
        let fanfare = Fanfare::start().await?;
        let mut redis = fanfare.redis_connection().await?;
        let mut eval = redis::cmd("EVAL");
        eval.arg(format!("{PRELUDE}\n{BOTH_WAYS}")).arg(1).arg("f:{acme}");
        let texts: Vec<String> = eval.query_async(&mut redis).await?;
        assert_eq!(texts.len(), 16);
        for pair in texts.chunks(2) {
            assert_eq!(pair[0], pair[1], "the long way, then the short one");
        }
        Result::Ok(())
    });
}
