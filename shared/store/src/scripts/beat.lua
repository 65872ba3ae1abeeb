-- A dispatcher's sign of life. KEYS: the set of all, each at its last sign in unix milliseconds. ARGV: its name, after how many ms
-- without a sign one is dead. Returns the names of those that live
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local dead = string.format('%.0f', now - tonumber(ARGV[2]))
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. dead)
return redis.call('ZRANGE', KEYS[1], 0, -1)
