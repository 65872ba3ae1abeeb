-- Stands before the scripts that make, drive and end jobs.
-- A job's record, form 1, a hash `:job:<id>`: v 1; k kind; w its webhooks, blanks between, done from the first on;
--   s open | done | stopped, why, end; total, done, failed: deliveries; window: of a resume; turn: of the message that drives
--   it; lease, token: who drives it, until when; at: made. Times are unix milliseconds.
-- `:job:<id>:out`, a hash: what a resume has released and nobody has been seen to attempt, `<ulid>_<field>` = `<epoch> <attempt>`.
-- `:hj`, a hash: the newest job over what a webhook holds; an older one gives way to it.
local function job_key(id) return P .. ':job:' .. id end

local function make_job(id, kind, webhooks, total)
  redis.call('HSET', job_key(id), 'v', '1', 'k', kind, 'w', webhooks, 's', 'open', 'total', total, 'done', 0, 'failed', 0,
    'window', 0, 'turn', 0, 'lease', 0, 'token', '-', 'at', NOW)
  for webhook in string.gmatch(webhooks, '%x+') do redis.call('HSET', P .. ':hj', webhook, id) end
end

-- How many deliveries a webhook holds.
local function held(webhook) return redis.call('ZCARD', P .. ':held:' .. webhook) end

-- Whether the job is open and this caller drives it.
local function drives(id, token)
  local known = redis.call('HMGET', job_key(id), 's', 'token')
  return known[1] == 'open' and known[2] == token
end

-- The `count` oldest of what a webhook holds, with their records, all read before anything is changed; what is held no
-- more, or gone, is struck off. Fails where a record is of a form that this version does not know.
local function oldest_held(webhook, count)
  local key, found = P .. ':held:' .. webhook, {}
  for _, member in ipairs(redis.call('ZRANGE', key, 0, count - 1)) do
    local ulid, field = string.match(member, '^(%w+)_(.+)$')
    local text = redis.call('HGET', P .. ':e:' .. ulid, field)
    local r = text and read(text)
    if text and not r then return nil end
    found[#found + 1] = { member = member, ulid = ulid, field = field, r = r }
  end
  local still = {}
  for _, one in ipairs(found) do
    redis.call('ZREM', key, one.member)
    if one.r and one.r.state == 'h' then still[#still + 1] = one end
  end
  return still
end
local ODD = 'ERR a record of a form that this version does not know'
