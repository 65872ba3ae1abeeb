-- Claims events before they are published: once per id and window (delivery.md, Redis, state: Dedup).
-- ARGV: lease ms, window ms, then per event: dedup key, new ulid, content hash, type, stored event
-- Returns the configuration version, then per event: new | taken over | duplicate | busy | conflict, and the ulid (busy: ms left)
local version = config_version()
if not version then return redis.error_reply(LOST) end
local lease, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local answers = { version }
local function store(ulid, kind, stored)
  redis.call('HSET', P .. ':e:' .. ulid, 't', kind, 's', now, 'b', stored)
  redis.call('ZADD', P .. ':open', now, ulid)
end
for i = 3, #ARGV, 5 do
  local key, ulid, hash, kind, stored = P .. ':x:' .. ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local known = redis.call('GET', key)
  local answer
  if not known then
    redis.call('SET', key, '1|p|' .. ulid .. '|' .. string.format('%.0f', now + lease) .. '|' .. hash, 'PX', window)
    store(ulid, kind, stored)
    answer = { 'new', ulid }
  else
    local state, its, until_, content = string.match(known, '^1|(%a)|([^|]+)|([^|]*)|(.*)$')
    if content ~= hash then
      answer = { 'conflict', its }
    elseif state == 'd' then
      answer = { 'duplicate', its }
    elseif now < tonumber(until_) then
      answer = { 'busy', string.format('%.0f', tonumber(until_) - now) }
    else
      -- Its first owner died between claim and confirm: published again under the same ulid.
      redis.call('SET', key, '1|p|' .. its .. '|' .. string.format('%.0f', now + lease) .. '|' .. hash, 'KEEPTTL')
      if redis.call('EXISTS', P .. ':e:' .. its) == 0 then store(its, kind, stored) end
      answer = { 'taken over', its }
    end
  end
  answers[#answers + 1] = answer[1]
  answers[#answers + 1] = answer[2]
end
return answers
