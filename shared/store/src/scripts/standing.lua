-- How a tenant stands, for metrics: reads only, and no more than it is told to.
-- ARGV: how many of the oldest open events to look into, cap where a webhook has none
-- Returns numbers: the ledger's created, pending, held, delivered, failed, cancelled; then ages in ms, 0 for none: of the
--   oldest event that is not fanned out, and of the oldest delivery that is due, waits for its retry, for room, is held
local function number(value) return tonumber(value or 0) end
local count = call('HMGET', P .. ':ledger', 'created', 'pending', 'held', 'delivered', 'failed', 'cancelled')
local answers = {}
for i = 1, 6 do answers[i] = number(count[i]) end
local function age(since) return math.max(0, now - number(since)) end

local unfanned = call('ZRANGE', P .. ':open', 0, 0, 'WITHSCORES')
answers[7] = unfanned[2] and age(unfanned[2]) or 0

-- Whether the receiver, its tenant's rate or its own cap keeps a webhook's deliveries waiting.
local limited = {}
local function is_limited(id)
  if limited[id] == nil then
    local cap = number(match(call('HGET', P .. ':wc', id) or '', '^1 %d+ %d (%d+)'))
    if cap == 0 then cap = tonumber(ARGV[2]) end
    limited[id] = call('ZCOUNT', P .. ':fly:' .. id, now, '+inf') >= cap or
      number(call('GET', P .. ':pause:' .. id)) > now or number(call('GET', P .. ':rate:' .. id)) > now * 1000
  end
  return limited[id]
end

local due, retry, limit, held = 0, 0, 0, 0
local look = tonumber(ARGV[1])
for _, ulid in ipairs(call('ZRANGE', P .. ':pend', 0, look - 1)) do
  if look <= 0 then break end
  local event = P .. ':e:' .. ulid
  for _, field in ipairs(call('HKEYS', event)) do
    if look <= 0 then break end
    if #field > 1 then -- a delivery's record; fields of the event itself have one letter
      look = look - 1
      local r = read(call('HGET', event, field) or '')
      if r and r.state == 'p' and number(r.lease) <= now then
        if number(r.due) > now then
          retry = math.max(retry, age(r.created))
        elseif is_limited(webhook_of(field)) then
          limit = math.max(limit, age(r.created))
        elseif number(r.due) > 0 then
          due = math.max(due, age(r.due))
        else
          due = math.max(due, age(r.created))
        end
      end
    end
  end
end
for _, webhook in ipairs(call('HKEYS', P .. ':wc')) do
  local oldest = call('ZRANGE', P .. ':held:' .. webhook, 0, 0, 'WITHSCORES')
  if oldest[2] then held = math.max(held, age(oldest[2])) end
end
answers[8], answers[9], answers[10], answers[11] = due, retry, limit, held
return answers
