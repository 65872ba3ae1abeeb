-- Saves a tenant's key. ARGV: id, stored key
if redis.call('EXISTS', P .. ':t') == 0 then return 'missing' end
redis.call('HSET', P .. ':k', ARGV[1], ARGV[2])
return tostring(redis.call('INCR', P .. ':cv'))
