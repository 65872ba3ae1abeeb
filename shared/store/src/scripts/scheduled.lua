-- Notes that what comes next for deliveries is in its queue. ARGV per delivery: ulid, field, attempt, due ms (0: ended)
for i = 1, #ARGV, 4 do
  local event = P .. ':e:' .. ARGV[i]
  local text = redis.call('HGET', event, ARGV[i + 1])
  if text then
    local r = read(text)
    if r.attempt == tonumber(ARGV[i + 2]) and r.published == '0' then
      r.published = '1'
      if ARGV[i + 3] ~= '0' then r.due = ARGV[i + 3] end
      redis.call('HSET', event, ARGV[i + 1], written(r))
    end
  end
end
return 1
