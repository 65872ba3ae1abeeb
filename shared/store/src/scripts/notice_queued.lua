-- Notes that a mail is in its queue. ARGV: webhook, kind, how long that may last in ms
local id, kind = ARGV[1], ARGV[2]
redis.call('SET', P .. ':mail:' .. id .. ':' .. kind, 'q', 'NX', 'PX', ARGV[3])
if kind == 'failing' then
  local since = redis.call('HGET', P .. ':failing', id)
  if since and not string.find(since, 'n', 1, true) then redis.call('HSET', P .. ':failing', id, since .. 'n') end
end
return 1
