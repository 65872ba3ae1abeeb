-- Releases the oldest held deliveries of a resume's webhook: pending again, due now, noted in the job. Each epoch is raised,
-- so that a copy left from before is stale. ARGV: job, token, how many, the window
-- Returns nothing where another drives the job or something ends it (the next look tells), else the configuration's
--   version, then per delivery: ulid, field, type, accepted ms, attempt, epoch, shape
local version = config_version()
if not version then return redis.error_reply(LOST) end
local id = ARGV[1]
local job = job_key(id)
if not drives(id, ARGV[2]) then return {} end
local webhook = string.match(redis.call('HGET', job, 'w'), '%x+') or ''
local on = string.match(redis.call('HGET', P .. ':wc', webhook) or '', '^1 %d+ (%d)')
if on ~= '1' or redis.call('HGET', P .. ':hj', webhook) ~= id then return {} end
local found = oldest_held(webhook, tonumber(ARGV[3]))
if not found then return redis.error_reply(ODD) end
local answer = { version }
for _, one in ipairs(found) do
  local r, event = one.r, P .. ':e:' .. one.ulid
  r.state, r.epoch, r.lease, r.token, r.due, r.published, r.reason = 'p', r.epoch + 1, '0', '-', '0', '0', '-'
  redis.call('HSET', event, one.field, written(r))
  redis.call('HSET', job .. ':out', one.member, r.epoch .. ' ' .. r.attempt)
  count('held', -1)
  count('pending', 1)
  local kind = redis.call('HGET', event, 't') or ''
  for _, part in ipairs({ one.ulid, one.field, kind, r.created, tostring(r.attempt), tostring(r.epoch), r.shape }) do
    answer[#answer + 1] = part
  end
end
redis.call('HSET', job, 'window', ARGV[4])
redis.call('HINCRBY', job, 'done', #found)
write_ledger()
return answer
