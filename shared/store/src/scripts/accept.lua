-- Claims events before they are published: once per id and window (delivery.md, Redis, state: Dedup).
-- ARGV: lease ms, window ms, then per event: dedup key, new ulid, content hash, type, stored event
-- Returns the configuration version, then per event: new | taken over | duplicate | busy | conflict, and the ulid (busy: ms left)
local version = config_version()
if not version then return redis.error_reply(LOST) end
local ends, window = int(now + tonumber(ARGV[1])), ARGV[2]
local answers = { version }
local claims, events, open = claims_of(born()), P .. ':e:', P .. ':open'
local function store(ulid, kind, stored)
  call('HSET', events .. ulid, 't', kind, 's', NOW, 'b', stored)
  gather_add(open, NOW, ulid)
end
for i = 3, #ARGV, 5 do
  local key, ulid, hash, kind, stored = claims .. ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local claim = '1|p|' .. ulid .. '|' .. ends .. '|' .. hash
  local known = call('SET', key, claim, 'NX', 'GET', 'PX', window)
  local answer
  if not known then
    store(ulid, kind, stored)
    answer = { 'new', ulid }
  else
    local state, its, until_, content = match(known, '^1|(%a)|([^|]+)|([^|]*)|(.*)$')
    if content ~= hash then
      answer = { 'conflict', its }
    elseif state == 'd' then
      answer = { 'duplicate', its }
    elseif now < tonumber(until_) then
      answer = { 'busy', int(tonumber(until_) - now) }
    else
      -- Its first owner died between claim and confirm: published again under the same ulid.
      call('SET', key, '1|p|' .. its .. '|' .. ends .. '|' .. hash, 'KEEPTTL')
      if call('EXISTS', events .. its) == 0 then store(its, kind, stored) end
      answer = { 'taken over', its }
    end
  end
  answers[#answers + 1] = answer[1]
  answers[#answers + 1] = answer[2]
end
send_gathered()
return answers
