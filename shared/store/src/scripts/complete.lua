-- Records attempts (delivery.md, Redis, state: Complete). A late completion may only turn the state to delivered.
-- ARGV: retention ms, then per delivery: ulid, field, webhook, token, verdict (d delivered, r retry, f failed, u undone),
--   due ms, reason, pause of the whole webhook ms, attempt made, the attempt's log entry
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
local function record(i, ulid, field, id, token, verdict, event, there)
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
    local log = field .. '.' .. ARGV[i + 8]
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
        call('HSET', event, field, written(r), log, ARGV[i + 9], 'n', open)
        if open <= 0 then
          gather_remove(pending, ulid)
          call('PEXPIRE', event, kept(retention, r))
        end
      else
        call('HSET', event, field, written(r), log, ARGV[i + 9])
      end
      if before == 'h' then call('ZREM', P .. ':held:' .. id, ulid .. '_' .. field) end
    elseif verdict == 'r' then
      call('HSETNX', P .. ':failing', id, NOW)
      -- Its message is on its way only when the scheduler says so.
      r.attempt, r.claims, r.due, r.published = tonumber(ARGV[i + 8]) + 1, 0, ARGV[i + 5], '0'
      call('HSET', event, field, written(r), log, ARGV[i + 9])
      local pause = tonumber(ARGV[i + 7])
      if pause > 0 then
        local known = tonumber(call('GET', P .. ':pause:' .. id) or 0)
        if now + pause > known then call('SET', P .. ':pause:' .. id, int(now + pause), 'PX', pause) end
      end
    elseif verdict == 'f' then
      r.state, r.final, r.reason, r.claims, r.published = 'f', NOW, ARGV[i + 6], 0, '0'
      r.attempt = tonumber(ARGV[i + 8]) + 1
      count('pending', -1)
      count('failed', 1)
      call('HSET', event, field, written(r), log, ARGV[i + 9])
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
for i = 2, #ARGV, 10 do
  local ulid, field, id, token, verdict = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local event = events .. ulid
  local there = call('HMGET', event, field, 'n')
  -- The way that nearly all go, shorter: delivered at its first attempt, under its first claim.
  local done = verdict == 'd' and there[1] and there[2] and delivered_text(there[1], token)
  if done then
    delivered = delivered + 1
    well[id] = true
    local open = tonumber(there[2]) - 1
    call('HSET', event, field, done, field .. '.1', ARGV[i + 9], 'n', open)
    if open <= 0 then
      call('PEXPIRE', event, retention)
      gather_remove(pending, ulid)
    end
    gather_remove(flying .. id, ulid .. '_' .. field)
    answers[#answers + 1] = 'recorded'
  else
    answers[#answers + 1] = record(i, ulid, field, id, token, verdict, event, there)
  end
end
for id in pairs(well) do call('HDEL', P .. ':failing', id) end
count('pending', -delivered)
count('delivered', delivered)
write_ledger()
return answers
