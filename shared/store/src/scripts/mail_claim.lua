-- Claims the sending of a mail: one an hour per webhook and kind, over all schedulers. ARGV: webhook, kind, token, claim ms
-- Returns go | sent (within the hour) | sending (another is at it)
local key = P .. ':mail:' .. ARGV[1] .. ':' .. ARGV[2]
local known = redis.call('GET', key)
if known == 'm' then return 'sent' end
if known and string.sub(known, 1, 1) == 's' then return 'sending' end
redis.call('SET', key, 's' .. ARGV[3], 'PX', ARGV[4])
return 'go'
