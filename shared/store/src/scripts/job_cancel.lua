-- Cancels the oldest held deliveries of a job's webhooks, so many at most. ARGV: job, token, lease ms, how many, retention ms
-- Returns `lost` (another drives it), `going`, or `empty`: nothing is left
if not config_version() then return redis.error_reply(LOST) end
local id = ARGV[1]
local job = job_key(id)
if not drives(id, ARGV[2]) then return 'lost' end
redis.call('HSET', job, 'lease', int(now + tonumber(ARGV[3])))
local webhooks = redis.call('HGET', job, 'w')
local webhook = string.match(webhooks, '%x+')
if not webhook then return 'empty' end
local found = {}
-- A newer job has what the webhook holds: it is not ours any more.
if redis.call('HGET', P .. ':hj', webhook) == id then
  found = oldest_held(webhook, tonumber(ARGV[4]))
  if not found then return redis.error_reply(ODD) end
end
local reason = redis.call('HEXISTS', P .. ':wc', webhook) == 1 and 'cancelled' or 'webhook_deleted'
for _, one in ipairs(found) do
  local r, event = one.r, P .. ':e:' .. one.ulid
  r.state, r.epoch, r.final, r.reason, r.lease, r.token = 'c', r.epoch + 1, NOW, reason, '0', '-'
  redis.call('HSET', event, one.field, written(r))
  close(event, one.ulid, ARGV[5], r)
  count('held', -1)
  count('cancelled', 1)
end
redis.call('HINCRBY', job, 'done', #found)
if #found == 0 and (held(webhook) == 0 or redis.call('HGET', P .. ':hj', webhook) ~= id) then
  if redis.call('HGET', P .. ':hj', webhook) == id then redis.call('HDEL', P .. ':hj', webhook) end
  redis.call('HSET', job, 'w', (string.gsub(webhooks, '^%s*%x+%s*', '', 1)))
end
write_ledger()
return 'going'
