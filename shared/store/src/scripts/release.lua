-- Gives claims back whose publish the broker refused: the next try need not wait for the lease. ARGV per event: dedup key, ulid
local claims = claims_of(born())
for i = 1, #ARGV, 2 do
  local key = claims .. ARGV[i]
  local known = redis.call('GET', key)
  if known then
    local state, its, content = string.match(known, '^1|(%a)|([^|]+)|[^|]*|(.*)$')
    if state == 'p' and its == ARGV[i + 1] then
      redis.call('SET', key, '1|p|' .. its .. '|0|' .. content, 'KEEPTTL')
    end
  end
end
return 1
