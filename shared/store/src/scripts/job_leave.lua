-- Gives a job's lease back at the end of a turn. ARGV: job, token. Returns the next turn's number, or nothing where another
-- drives it
if not drives(ARGV[1], ARGV[2]) then return false end
redis.call('HSET', job_key(ARGV[1]), 'lease', 0, 'token', '-')
return tostring(redis.call('HINCRBY', job_key(ARGV[1]), 'turn', 1))
