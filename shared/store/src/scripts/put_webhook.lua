-- Saves a webhook. ARGV: id, revision it must have now (0: none, -1: any), stored webhook, what claims read of it
-- Returns the tenant's new configuration version, or `missing`, `stale`
if not config_version() then return redis.error_reply(LOST) end
-- Deleted while the webhook was on its way: a tenant of the same id that comes later must not find it.
if redis.call('EXISTS', P .. ':t') == 0 then return 'missing' end
local id, expected = ARGV[1], tonumber(ARGV[2])
local compact = redis.call('HGET', P .. ':wc', id)
if expected == 0 and compact then return 'stale' end
if expected ~= 0 then
  if not compact then return 'missing' end
  if expected > 0 and tonumber(string.match(compact, '^1 (%d+)')) ~= expected then return 'stale' end
end
redis.call('HSET', P .. ':w', id, ARGV[3])
redis.call('HSET', P .. ':wc', id, ARGV[4])
return tostring(redis.call('INCR', P .. ':cv'))
