-- Deletes a webhook; its pending deliveries are cancelled as they come to be claimed. ARGV: id
if not config_version() then return redis.error_reply(LOST) end
local id = ARGV[1]
if redis.call('HDEL', P .. ':wc', id) == 0 then return 'missing' end
redis.call('HDEL', P .. ':w', id)
return tostring(redis.call('INCR', P .. ':cv'))
