-- Stands before every script: the clock, the tenant's keys, and the delivery record's one form.
-- KEYS[1] is the tenant's prefix with its hash tag, so that all keys of a call lie in one slot.
local P = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- The tenant's configuration version. Without it Redis has lost this tenant: nothing may be decided.
local function config_version()
  return redis.call('GET', P .. ':cv')
end
local LOST = 'LOST the tenant is not in Redis: it came back empty or older than it was'

-- A delivery's record, form 1, one text: 1 state epoch attempt claims lease token due published created first final shape reason
--   state p pending, h held, d delivered, f failed, c cancelled; attempt: the next to be made, from 1;
--   claims: made for this attempt and not completed; lease, due, created, first, final: unix milliseconds, 0 for none;
--   published: 1 where the message that drives what comes next is known to be in a queue.
-- Read and written once per delivery and script: matched in one go, and numbers stay texts where nobody counts with them.
local FORM = '^1 (%a) (%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (%d) (%d+) (%d+) (%d+) (%S+) (%S+)$'
local function int(number) return string.format('%.0f', number) end
local NOW = int(now)

local function read(text)
  local state, epoch, attempt, claims, lease, token, due, published, created, first, final, shape, reason =
    string.match(text, FORM)
  if not state then return nil end -- a form that this version does not know
  return {
    state = state, epoch = tonumber(epoch), attempt = tonumber(attempt), claims = tonumber(claims), lease = lease,
    token = token, due = due, published = published, created = created, first = first, final = final, shape = shape,
    reason = reason,
  }
end

local function written(r)
  return '1 ' .. r.state .. ' ' .. r.epoch .. ' ' .. r.attempt .. ' ' .. r.claims .. ' ' .. r.lease .. ' ' .. r.token ..
    ' ' .. r.due .. ' ' .. r.published .. ' ' .. r.created .. ' ' .. r.first .. ' ' .. r.final .. ' ' .. r.shape .. ' ' ..
    r.reason
end

local function fresh(accepted, shape)
  return {
    state = 'p', epoch = 0, attempt = 1, claims = 0, lease = '0', token = '-', due = '0', published = '1',
    created = accepted, first = '0', final = '0', shape = shape, reason = '-',
  }
end

-- Commands with many members are cheaper than many commands: gathered here, sent once per call.
local gathered = {}
local function gather(command, key, ...)
  local list = gathered[command .. ' ' .. key]
  if not list then
    list = { command, key }
    gathered[command .. ' ' .. key] = list
  end
  for i = 1, select('#', ...) do list[#list + 1] = select(i, ...) end
end
local function send_gathered()
  for _, list in pairs(gathered) do redis.call(unpack(list)) end
end

-- The ledger: every change of a state counts here, in the script that makes it. Written once per call, at its end.
local ledger = {}
local function count(state, by)
  ledger[state] = (ledger[state] or 0) + by
end
local function write_ledger()
  for state, by in pairs(ledger) do
    if by ~= 0 then redis.call('HINCRBY', P .. ':ledger', state, by) end
  end
  send_gathered()
end

-- How long an event stays behind its last delivery's end. Where a message was replaced, the old one may still come, from
-- a tier of days: it must find the record, or it would bring the delivery back.
local function kept(retention, r)
  if r.epoch > 0 then return math.max(tonumber(retention), 1296000000) end
  return retention
end

-- A delivery of this event has come to its end: when it was the last open one, the event stays for the retention.
local function close(event, ulid, retention, r)
  if redis.call('HINCRBY', event, 'n', -1) <= 0 then
    redis.call('ZREM', P .. ':pend', ulid)
    redis.call('PEXPIRE', event, kept(retention, r))
  end
end
