-- The API's acts on one delivery. ARGV: ulid, field, webhook, `cancel` or `hasten`, retention ms
-- Returns `missing`, `final` and the state, `leased`, or `done` and epoch, attempt, shape, created of the delivery now
local event = P .. ':e:' .. ARGV[1]
local field, id = ARGV[2], ARGV[3]
local text = redis.call('HGET', event, field)
if not text then return { 'missing' } end
local r = read(text)
if not r then return redis.error_reply('ERR a record of a form that this version does not know') end
if r.state ~= 'p' and r.state ~= 'h' then return { 'final', r.state } end
if tonumber(r.lease) > now then return { 'leased' } end
local before = r.state == 'h' and 'held' or 'pending'
-- Raised, so that the message under way is stale when it comes.
r.epoch = r.epoch + 1
r.lease, r.token = '0', '-' -- a late attempt's end is no longer this delivery's
if ARGV[4] == 'cancel' then
  r.state, r.final, r.reason = 'c', NOW, 'cancelled'
  count(before, -1)
  count('cancelled', 1)
else
  r.state, r.due, r.published, r.reason = 'p', '0', '0', '-'
  count(before, -1)
  count('pending', 1)
end
if before == 'held' then redis.call('ZREM', P .. ':held:' .. id, ARGV[1] .. '_' .. field) end
redis.call('HSET', event, field, written(r))
if r.state == 'c' then close(event, ARGV[1], ARGV[5], r) end
write_ledger()
return { 'done', tostring(r.epoch), tostring(r.attempt), r.shape, r.created }
