-- Takes or keeps a job's lease and says how it stands. ARGV: job, turn of the message, token, lease ms, slots of a webhook
--   that names none, the window decided last ('' at first)
-- Returns `gone` (ended, or never made) | `stale` (a later message drives it) | `leased` and ms left | `odd`, or `open` and:
--   kind, webhook, what ends it (`-`: nothing), window, slots, outstanding, held, delivered and failed since the last look,
--   the configuration's version, then per released delivery that is not known to be in a queue:
--   ulid, field, type, accepted ms, attempt, epoch, shape
local version = config_version()
if not version then return redis.error_reply(LOST) end
local id, token = ARGV[1], ARGV[3]
local job = job_key(id)
local known = redis.call('HMGET', job, 'v', 's', 'turn', 'lease', 'token', 'k', 'w', 'window')
if not known[1] then return { 'gone' } end
if known[1] ~= '1' then return { 'odd' } end
if known[2] ~= 'open' then return { 'gone' } end
if tonumber(ARGV[2]) < tonumber(known[3]) then return { 'stale' } end
local lease = tonumber(known[4])
if lease > now and known[5] ~= token then return { 'leased', int(lease - now) } end
local window = ARGV[6] ~= '' and ARGV[6] or known[8]
redis.call('HSET', job, 'lease', int(now + tonumber(ARGV[4])), 'token', token, 'window', window)

local webhook = string.match(known[7], '%x+') or ''
local compact = redis.call('HGET', P .. ':wc', webhook)
local _, on, cap = string.match(compact or '', '^1 (%d+) (%d) (%d+)')
local slots = tonumber(cap or 0)
if slots == 0 then slots = tonumber(ARGV[5]) end
local ends = '-'
if redis.call('HGET', P .. ':hj', webhook) ~= id then
  ends = 'superseded'
elseif not compact then
  ends = 'webhook_deleted'
elseif on ~= '1' then
  ends = 'webhook_off'
end

local out, outstanding, delivered, failed, unpublished = redis.call('HGETALL', job .. ':out'), 0, 0, 0, {}
for i = 1, #out, 2 do
  local ulid, field = string.match(out[i], '^(%w+)_(.+)$')
  local epoch, attempt = string.match(out[i + 1], '^(%d+) (%d+)$')
  local there = redis.call('HMGET', P .. ':e:' .. ulid, field, 't')
  local r = there[1] and read(there[1])
  if r and r.state == 'p' and r.epoch == tonumber(epoch) and r.attempt == tonumber(attempt) then
    outstanding = outstanding + 1
    if r.published == '0' then
      for _, part in ipairs({ ulid, field, there[2] or '', r.created, attempt, epoch, r.shape }) do
        unpublished[#unpublished + 1] = part
      end
    end
  else
    redis.call('HDEL', job .. ':out', out[i])
    if r and r.state == 'd' then
      delivered = delivered + 1
    elseif r and (r.state == 'f' or r.state == 'p') then
      failed = failed + 1
    end
  end
end
local answer = { 'open', known[6], webhook, ends, window, tostring(slots), tostring(outstanding), tostring(held(webhook)),
  tostring(delivered), tostring(failed), version }
for _, part in ipairs(unpublished) do answer[#answer + 1] = part end
return answer
