-- Decides an event's match list, once; a redelivery gets what was decided. Makes the deliveries' records.
-- ARGV: retention ms, then per event: ulid, accepted ms, type, stored event ('' where it should be there), matches as
--   `webhook=shape` with blanks between
-- Returns per event: decided | known | bodyless, and the match list in force
local version = config_version()
if not version then return redis.error_reply(LOST) end
local retention = tonumber(ARGV[1])
local answers, log = {}, {}
for i = 2, #ARGV, 5 do
  local ulid, accepted, kind, stored, matches = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local event = P .. ':e:' .. ulid
  local there = redis.call('HMGET', event, 'm', 'b', 'x')
  if there[1] then
    answers[#answers + 1] = 'known'
    answers[#answers + 1] = there[1]
  elseif not there[2] and stored == '' then
    -- Redis has lost its last seconds: the caller gives the event once more.
    answers[#answers + 1] = 'bodyless'
    answers[#answers + 1] = ''
  else
    local fields = { 'm', matches, 't', kind, 's', accepted }
    if not there[2] then
      fields[#fields + 1] = 'b'
      fields[#fields + 1] = stored
    end
    local made = 0
    for webhook, shape in string.gmatch(matches, '(%x+)=(%S+)') do
      -- A delivery that its own message brought back before the match was known again stands as it is.
      if not there[3] or redis.call('HEXISTS', event, webhook) == 0 then
        fields[#fields + 1] = webhook
        fields[#fields + 1] = written(fresh(accepted, shape))
        made = made + 1
      end
    end
    local open = made
    if there[3] then open = open + tonumber(redis.call('HGET', event, 'n') or 0) end
    fields[#fields + 1] = 'n'
    fields[#fields + 1] = open
    for from = 1, #fields, 1000 do
      redis.call('HSET', event, unpack(fields, from, math.min(from + 999, #fields)))
    end
    log[#log + 1] = 'e'
    log[#log + 1] = ulid
    gather('ZREM', P .. ':open', ulid)
    if open > 0 then
      gather('ZADD', P .. ':pend', accepted, ulid)
      count('created', made)
      count('pending', made)
    else
      redis.call('PEXPIRE', event, retention)
    end
    answers[#answers + 1] = 'decided'
    answers[#answers + 1] = matches
  end
end
if #log > 0 then
  -- One entry for all: lists read them back in this order.
  local oldest = int(math.max(0, now - retention - 2592000000))
  redis.call('XADD', P .. ':log', 'MINID', '~', oldest, '*', unpack(log))
end
write_ledger()
return answers
