-- Stands before every script: the clock, the tenant's keys, and the delivery record's one form.
-- KEYS[1] is the tenant's prefix with its hash tag, so that all keys of a call lie in one slot.
local P = KEYS[1]
local call, match, find, unpack = redis.call, string.match, string.find, unpack -- a local is found quicker than a field of a global
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- The tenant's configuration version. Without it Redis has lost this tenant: nothing may be decided.
local function config_version()
  return call('GET', P .. ':cv')
end
-- When the tenant was made, unix milliseconds, where a deleted one had its id before; else nil.
local function born() return call('GET', P .. ':born') end
-- What claims of events' ids begin with: a tenant of the same id that was before has claimed others.
local function claims_of(moment) return P .. ':x:' .. (moment and moment .. ':' or '') end
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
    match(text, FORM)
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

-- Nearly all deliveries are fresh, then claimed once, then delivered. For these three steps the record is not taken apart and
-- put together again, which costs more than all else a script does: the same texts as by the general way, or nil
-- where the record is not as it is for nearly all.
local function fresh_text(accepted, shape)
  return '1 p 0 1 0 0 - 0 1 ' .. accepted .. ' 0 0 ' .. shape .. ' -'
end
local function claimed_text(text, ends, token)
  local created, shape = match(text, '^1 p 0 1 0 0 %- 0 1 (%d+) 0 0 (%S+) %-$')
  return created and '1 p 0 1 1 ' .. ends .. ' ' .. token .. ' 0 1 ' .. created .. ' ' .. NOW .. ' 0 ' .. shape .. ' -'
end
local function delivered_text(text, token)
  local its, rest, shape = match(text, '^1 p 0 1 1 %d+ (%S+) (0 1 %d+ %d+) 0 (%S+) %-$')
  return its == token and '1 d 0 1 0 0 - ' .. rest .. ' ' .. NOW .. ' ' .. shape .. ' -'
end

-- Whose delivery it is: a field is its webhook's id, or with `_r<job>` behind it.
local function webhook_of(field) return match(field, '^[^_]+') end

-- Commands with many members are cheaper than many commands: gathered here, sent once per call.
local gathered = {}
local function gathering(command, key)
  local name = command .. key
  local list = gathered[name]
  if not list then
    list = { command, key }
    gathered[name] = list
  end
  return list, #list
end
local function gather_add(key, score, member)
  local list, at = gathering('ZADD', key)
  list[at + 1], list[at + 2] = score, member
end
local function gather_remove(key, member)
  local list, at = gathering('ZREM', key)
  list[at + 1] = member
end
local function send_gathered()
  for _, list in pairs(gathered) do call(unpack(list)) end
end

-- The ledger: every change of a state counts here, in the script that makes it. Written once per call, at its end.
local ledger = {}
local function count(state, by)
  ledger[state] = (ledger[state] or 0) + by
end
local function write_ledger()
  for state, by in pairs(ledger) do
    if by ~= 0 then call('HINCRBY', P .. ':ledger', state, by) end
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
  if call('HINCRBY', event, 'n', -1) <= 0 then
    call('ZREM', P .. ':pend', ulid)
    call('PEXPIRE', event, kept(retention, r))
  end
end
