-- Ends a job; its record stays for a retention. ARGV: job, token, `done` or `stopped`, why, retention ms
local id = ARGV[1]
local job = job_key(id)
if not drives(id, ARGV[2]) then return 0 end
for webhook in string.gmatch(redis.call('HGET', job, 'w'), '%x+') do
  if redis.call('HGET', P .. ':hj', webhook) == id then redis.call('HDEL', P .. ':hj', webhook) end
end
redis.call('HSET', job, 's', ARGV[3], 'why', ARGV[4], 'end', NOW, 'lease', 0)
redis.call('PEXPIRE', job, ARGV[5])
redis.call('DEL', job .. ':out')
return 1
