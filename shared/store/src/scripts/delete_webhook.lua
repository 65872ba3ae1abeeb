-- Deletes a webhook; its pending deliveries are cancelled as they come to be claimed. ARGV: id, revision it must have now
-- (absent: any). Returns the tenant's new configuration version, or `missing`, `stale`
if not config_version() then return redis.error_reply(LOST) end
local id, expected = ARGV[1], tonumber(ARGV[2])
local compact = redis.call('HGET', P .. ':wc', id)
if not compact then return 'missing' end
if expected and tonumber(string.match(compact, '^1 (%d+)')) ~= expected then return 'stale' end
redis.call('HDEL', P .. ':wc', id)
redis.call('HDEL', P .. ':w', id)
return tostring(redis.call('INCR', P .. ':cv'))
