-- Notes that what comes next for deliveries is in its queue. ARGV per delivery: ulid, field, attempt, epoch,
-- due ms (0: ended)
for i = 1, #ARGV, 5 do
  local event = P .. ':e:' .. ARGV[i]
  local text = redis.call('HGET', event, ARGV[i + 1])
  if text then
    local r = read(text)
    -- Another epoch's message is another message: that this one is in its queue says nothing of that one.
    if r and r.attempt == tonumber(ARGV[i + 2]) and r.epoch == tonumber(ARGV[i + 3]) and r.published == '0' then
      r.published = '1'
      if ARGV[i + 4] ~= '0' then r.due = ARGV[i + 4] end
      redis.call('HSET', event, ARGV[i + 1], written(r))
    end
  end
end
return 1
