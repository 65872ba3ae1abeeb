-- Marks claimed events as published, lazily after the confirm. ARGV per event: dedup key, ulid, content hash
local claims = claims_of(born())
for i = 1, #ARGV, 3 do
  call('SET', claims .. ARGV[i], '1|d|' .. ARGV[i + 1] .. '||' .. ARGV[i + 2], 'XX', 'KEEPTTL')
end
return 1
