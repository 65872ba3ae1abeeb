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
local function read(text)
  local f = {}
  for part in string.gmatch(text, '%S+') do f[#f + 1] = part end
  return {
    state = f[2], epoch = tonumber(f[3]), attempt = tonumber(f[4]), claims = tonumber(f[5]), lease = tonumber(f[6]),
    token = f[7], due = tonumber(f[8]), published = f[9], created = f[10], first = f[11], final = f[12], shape = f[13],
    reason = f[14],
  }
end

local function written(r)
  return string.format('1 %s %d %d %d %.0f %s %.0f %s %s %s %s %s %s', r.state, r.epoch, r.attempt, r.claims, r.lease,
    r.token, r.due, r.published, r.created, r.first, r.final, r.shape, r.reason)
end

local function fresh(accepted, shape)
  return {
    state = 'p', epoch = 0, attempt = 1, claims = 0, lease = 0, token = '-', due = 0, published = '1', created = accepted,
    first = '0', final = '0', shape = shape, reason = '-',
  }
end

-- The ledger: every change of a state counts here, in the script that makes it. Written once per call.
local ledger = {}
local function count(state, by)
  ledger[state] = (ledger[state] or 0) + by
end
local function write_ledger()
  for state, by in pairs(ledger) do
    if by ~= 0 then redis.call('HINCRBY', P .. ':ledger', state, by) end
  end
end

-- A delivery of this event has come to its end: when it was the last open one, the event stays for the retention.
local function close(event, ulid, retention)
  if redis.call('HINCRBY', event, 'n', -1) <= 0 then
    redis.call('ZREM', P .. ':pend', ulid)
    redis.call('PEXPIRE', event, retention)
  end
end
