-- Decides an event's match list, once; a redelivery gets what was decided. Makes the deliveries' records.
-- ARGV: retention ms, then per event: ulid, accepted ms, type, stored event ('' where it should be there), matches as
--   `webhook=shape` with blanks between
-- Returns per event: decided | known | bodyless, and the match list in force
local version = config_version()
if not version then return redis.error_reply(LOST) end
local retention = tonumber(ARGV[1])
local answers, log, created = {}, {}, 0
local since = tonumber(born() or 0)
local events, fanning, pending = P .. ':e:', P .. ':open', P .. ':pend'
for i = 2, #ARGV, 5 do
  local ulid, accepted, kind, stored, matches = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local event = events .. ulid
  local there = call('HMGET', event, 'm', 't', 'x', 's') -- where there is a type, there is a body
  if there[1] then
    answers[#answers + 1] = 'known'
    answers[#answers + 1] = there[1]
  elseif not there[2] and stored == '' then
    -- Redis has lost its last seconds: the caller gives the event once more.
    answers[#answers + 1] = 'bodyless'
    answers[#answers + 1] = ''
  else
    -- Accepted for a deleted tenant of the same id: it matches nothing of this one's.
    local foreign = tonumber(there[4] or accepted) < since
    if foreign then matches = '' end
    local fields, at = { 'm', matches, 'n', 0 }, 4
    if not there[2] then
      fields[5], fields[6], fields[7], fields[8], fields[9], fields[10] = 't', kind, 's', accepted, 'b', stored
      at = 10
    end
    local made = 0
    for webhook, shape in string.gmatch(matches, '(%x+)=(%S+)') do
      -- A delivery that its own message brought back before the match was known again stands as it is.
      if not there[3] or call('HEXISTS', event, webhook) == 0 then
        fields[at + 1], fields[at + 2] = webhook, fresh_text(accepted, shape)
        at = at + 2
        made = made + 1
      end
    end
    local open = made
    if there[3] then open = open + tonumber(call('HGET', event, 'n') or 0) end
    fields[4] = open
    for from = 1, at, 1000 do
      call('HSET', event, unpack(fields, from, math.min(from + 999, at)))
    end
    log[#log + 1] = 'e'
    log[#log + 1] = ulid
    gather_remove(fanning, ulid)
    if open > 0 then
      gather_add(pending, accepted, ulid)
      created = created + made
    else
      call('PEXPIRE', event, retention)
    end
    answers[#answers + 1] = foreign and 'known' or 'decided'
    answers[#answers + 1] = matches
  end
end
count('created', created)
count('pending', created)
if #log > 0 then
  -- One entry for all: lists read them back in this order.
  local oldest = int(math.max(0, now - retention - 2592000000))
  call('XADD', P .. ':log', 'MINID', '~', oldest, '*', unpack(log))
end
write_ledger()
return answers
