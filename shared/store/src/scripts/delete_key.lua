-- Deletes a tenant's key. ARGV: id
if redis.call('HDEL', P .. ':k', ARGV[1]) == 0 then return 'missing' end
return tostring(redis.call('INCR', P .. ':cv'))
