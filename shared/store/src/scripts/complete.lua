-- Records attempts (delivery.md, Redis, state: Complete). A late completion may only turn the state to delivered.
-- ARGV: retention ms, then per delivery: ulid, field, token, and with blanks between: verdict (d delivered, r retry,
--   f failed, u undone), attempt made, due ms, pause of the whole webhook ms, reason; then the attempt's log entry
-- Returns per delivery: recorded | late
local version = config_version()
if not version then return redis.error_reply(LOST) end
local retention = ARGV[1]
local answers = {}
local events, pending, flying = P .. ':e:', P .. ':pend', P .. ':fly:'
-- Webhooks that have taken a delivery: since when one fails is kept for its notices, and ends with a success.
local well = {}
local names = { p = 'pending', h = 'held', f = 'failed', c = 'cancelled' }

-- Every way that an end can go.
local function record(i, ulid, field, token, event, there)
  local verdict, attempt, due, pause, reason = match(ARGV[i + 3], '^(%a) (%d+) (%d+) (%d+) (%S+)$')
  local id, entry = webhook_of(field), ARGV[i + 4]
  local r = there[1] and read(there[1])
  if not there[1] and verdict == 'd' then
    -- Redis has lost the record with its last seconds, and the receiver has taken the delivery: that is worth knowing.
    r = fresh(NOW, '-')
    r.epoch = 1 -- what was lost may still come: kept long enough to meet it
    count('created', 1)
    count('pending', 1)
    call('HSETNX', event, 's', NOW)
    there[2] = call('HINCRBY', event, 'n', 1)
  end
  local mine = r and r.token == token and r.lease ~= '0'
  -- Another's lease may stand under the same name: only the own one is given back.
  if mine or not r then gather_remove(flying .. id, ulid .. '_' .. field) end
  -- A failure counts under its own claim alone, and only while nobody has ended the delivery otherwise.
  if not r or (verdict ~= 'd' and (not mine or r.state ~= 'p')) or (verdict == 'd' and r.state == 'd') then
    return 'late'
  else
    local log = field .. '.' .. attempt
    r.lease, r.token = '0', '-'
    if verdict == 'd' then
      well[id] = true
      local before = r.state
      r.state, r.final, r.claims, r.published, r.reason = 'd', NOW, 0, '1', '-'
      count(names[before], -1)
      count('delivered', 1)
      if before == 'p' or before == 'h' then
        -- As close() does, in the same command as the record.
        local open = tonumber(there[2] or 1) - 1
        call('HSET', event, field, written(r), log, entry, 'n', open)
        if open <= 0 then
          gather_remove(pending, ulid)
          call('PEXPIRE', event, kept(retention, r))
        end
      else
        call('HSET', event, field, written(r), log, entry)
      end
      if before == 'h' then call('ZREM', P .. ':held:' .. id, ulid .. '_' .. field) end
    elseif verdict == 'r' then
      call('HSETNX', P .. ':failing', id, NOW)
      -- Its message is on its way only when the scheduler says so.
      r.attempt, r.claims, r.due, r.published = tonumber(attempt) + 1, 0, due, '0'
      call('HSET', event, field, written(r), log, entry)
      pause = tonumber(pause)
      if pause > 0 then
        local known = tonumber(call('GET', P .. ':pause:' .. id) or 0)
        if now + pause > known then call('SET', P .. ':pause:' .. id, int(now + pause), 'PX', pause) end
      end
    elseif verdict == 'f' then
      r.state, r.final, r.reason, r.claims, r.published = 'f', NOW, reason, 0, '0'
      r.attempt = tonumber(attempt) + 1
      count('pending', -1)
      count('failed', 1)
      call('HSET', event, field, written(r), log, entry)
      close(event, ulid, retention, r)
    else
      -- No request was made: the claim never was.
      r.claims = math.max(0, r.claims - 1)
      call('HSET', event, field, written(r))
    end
    return 'recorded'
  end
end

local delivered = 0
for i = 2, #ARGV, 5 do
  local ulid, field, token = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local event = events .. ulid
  local there = call('HMGET', event, field, 'n')
  -- The way that nearly all go, shorter: delivered at its first attempt, under its first claim, and no replay.
  local done = find(ARGV[i + 3], 'd 1 ', 1, true) == 1 and there[1] and there[2] and not find(field, '_', 1, true)
    and delivered_text(there[1], token)
  if done then
    delivered = delivered + 1
    well[field] = true
    local open = tonumber(there[2]) - 1
    call('HSET', event, field, done, field .. '.1', ARGV[i + 4], 'n', open)
    if open <= 0 then
      call('PEXPIRE', event, retention)
      gather_remove(pending, ulid)
    end
    gather_remove(flying .. field, ulid .. '_' .. field)
    answers[#answers + 1] = 'recorded'
  else
    answers[#answers + 1] = record(i, ulid, field, token, event, there)
  end
end
for id in pairs(well) do call('HDEL', P .. ':failing', id) end
count('pending', -delivered)
count('delivered', delivered)
write_ledger()
return answers
