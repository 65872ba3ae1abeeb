-- Claims deliveries before their attempts: no two at once, none after a success (delivery.md, Redis, state: Claim).
-- ARGV: lease ms, cap where a webhook has none, most claims of one attempt, retention ms, the dispatchers that live with blanks
--   around each (`*`: nobody is to be held dead), then per delivery: ulid, field (webhook, or webhook_r<job>), token,
--   and with blanks between: attempt, epoch, accepted ms, shape
-- Returns per delivery one text, a verdict and with blanks between
--   go: revision, claims before this one, first attempt ms        wait: ms
--   retry (its message may be lost): attempt, due ms, epoch      ended (its consequences are not drawn): reason
--   done | stale | held | cancelled | odd (a record of an unknown form): nothing
local version = config_version()
if not version then return redis.error_reply(LOST) end
local ends, default_cap, most_claims, retention = int(now + tonumber(ARGV[1])), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local answers = {}
local function answer(text) answers[#answers + 1] = text end
local events = P .. ':e:'

-- What is in force for a webhook, read once per call: revision, on, cap, rate, and what is under way.
local webhooks = {}
local function webhook(id)
  local w = webhooks[id]
  if w == nil then
    local text = call('HGET', P .. ':wc', id)
    if text then
      local revision, on, cap, rate = match(text, '^1 (%d+) (%d) (%d+) (%d+)$')
      local flying = P .. ':fly:' .. id
      call('ZREMRANGEBYSCORE', flying, '-inf', now)
      cap = tonumber(cap)
      if cap == 0 then cap = default_cap end
      w = {
        revision = revision, go = 'go ' .. revision .. ' 0 ' .. NOW, on = on == '1', rate = tonumber(rate), flying = flying,
        room = cap - call('ZCARD', flying), pause = tonumber(call('GET', P .. ':pause:' .. id) or 0),
      }
    else
      w = false
    end
    webhooks[id] = w
  end
  return w
end

-- Whether who claimed is still there to complete; a token begins with its dispatcher's name.
local living = ARGV[5]
local function lives(token)
  local name = match(token, '^(%x+)%.')
  return living == '*' or not name or find(living, ' ' .. name .. ' ', 1, true) ~= nil
end

-- Attempts per second, evenly: the time of the next one allowed, in microseconds (a leaky bucket of one second's room).
local function over_rate(id, rate)
  local key = P .. ':rate:' .. id
  local step = 1000000 / rate
  local at = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local next_at = math.max(tonumber(call('GET', key) or 0), at - 1000000 + step)
  if next_at > at then return math.ceil((next_at - at) / 1000) end
  call('SET', key, int(next_at + step), 'PX', 3000)
  return false
end

-- Every way that a claim can go.
local function decide(i, ulid, field, event, text)
  local attempt, epoch, accepted, shape = match(ARGV[i + 3], '^(%d+) (%d+) (%d+) (%S+)$')
  local id = webhook_of(field)
  attempt, epoch = tonumber(attempt), tonumber(epoch)
  local r
  if text then
    r = read(text)
  else
    -- The message outlived its record: brought back.
    r = fresh(accepted, shape)
    r.attempt, r.epoch = attempt, epoch
    call('HSET', event, field, written(r))
    call('HSETNX', event, 's', accepted)
    -- Not into the match list, which may still be decided by the event's own message: listed beside it.
    local beside = call('HGET', event, 'x')
    call('HSET', event, 'x', (beside and beside .. ' ' or '') .. field .. '=' .. shape)
    if not beside and call('HEXISTS', event, 'm') == 0 then call('XADD', P .. ':log', '*', 'e', ulid) end
    call('HINCRBY', event, 'n', 1)
    call('PERSIST', event)
    call('ZADD', P .. ':pend', accepted, ulid)
    count('created', 1)
    count('pending', 1)
  end
  if r and epoch > r.epoch then r.epoch = epoch end
  -- The message knows of an attempt that Redis lost with its last seconds.
  if r and attempt > r.attempt and r.state == 'p' then r.attempt, r.claims, r.published, r.lease = attempt, 0, '1', '0' end

  if not r then
    answer('odd')
  elseif r.state == 'f' and r.published == '0' then
    answer('ended ' .. r.reason)
  elseif r.state == 'd' or r.state == 'f' or r.state == 'c' then
    answer('done')
  elseif r.state == 'h' then
    answer('held')
  elseif epoch < r.epoch or attempt < r.attempt then
    if r.published == '0' then answer('retry ' .. r.attempt .. ' ' .. r.due .. ' ' .. r.epoch) else answer('stale') end
  elseif tonumber(r.lease) > now and lives(r.token) then
    answer('wait ' .. int(math.min(tonumber(r.lease) - now, 2000)))
  else
    local w = webhook(id)
    if not w then
      r.state, r.final, r.reason, r.lease = 'c', NOW, 'webhook_deleted', '0'
      count('pending', -1)
      count('cancelled', 1)
      call('HSET', event, field, written(r))
      close(event, ulid, retention, r)
      answer('cancelled')
    elseif not w.on then
      r.state, r.lease, r.reason = 'h', '0', 'webhook_off'
      count('pending', -1)
      count('held', 1)
      call('HSET', event, field, written(r))
      call('ZADD', P .. ':held:' .. id, r.created, ulid .. '_' .. field)
      answer('held')
    elseif r.claims >= most_claims then
      r.state, r.final, r.reason, r.lease, r.published = 'f', NOW, 'poison', '0', '0'
      count('pending', -1)
      count('failed', 1)
      r.attempt = r.attempt + 1
      call('HSET', event, field, written(r))
      close(event, ulid, retention, r)
      answer('ended poison')
    elseif w.pause > now then
      answer('wait ' .. int(w.pause - now))
    elseif w.room <= 0 then
      answer('wait 250')
    else
      local wait = w.rate > 0 and over_rate(id, w.rate)
      if wait then
        answer('wait ' .. wait)
      else
        local before = r.claims
        r.lease, r.token, r.claims = ends, ARGV[i + 2], before + 1
        if r.first == '0' then r.first = NOW end
        w.room = w.room - 1
        call('HSET', event, field, written(r))
        gather_add(w.flying, ends, ulid .. '_' .. field)
        answer('go ' .. w.revision .. ' ' .. before .. ' ' .. r.first)
      end
    end
  end
end

for i = 6, #ARGV, 4 do
  local ulid, field = ARGV[i], ARGV[i + 1]
  local event = events .. ulid
  local text = call('HGET', event, field)
  -- The way that nearly all go, shorter: the first message of a delivery that nobody has claimed. (A replay's field is no
  -- webhook's id.)
  local first = text and find(ARGV[i + 3], '1 0 ', 1, true) == 1 and claimed_text(text, ends, ARGV[i + 2])
  local w = first and webhook(field)
  if w and w.on and w.pause <= now and w.room > 0 and w.rate == 0 then
    w.room = w.room - 1
    call('HSET', event, field, first)
    gather_add(w.flying, ends, ulid .. '_' .. field)
    answer(w.go)
  else
    decide(i, ulid, field, event, text)
  end
end
write_ledger()
return answers
