-- Notes what became of a mail that was claimed. ARGV: webhook, kind, token, m (sent) | q (to be tried again) | - (given up),
-- and for how long that counts in ms
local key = P .. ':mail:' .. ARGV[1] .. ':' .. ARGV[2]
if redis.call('GET', key) ~= 's' .. ARGV[3] and ARGV[4] ~= 'm' then return 0 end
if ARGV[4] == '-' then
  redis.call('DEL', key)
else
  redis.call('SET', key, ARGV[4], 'PX', ARGV[5])
end
return 1
