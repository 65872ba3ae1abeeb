-- Saves a tenant. ARGV: `new` or `known`, stored tenant. Returns its configuration version, or `exists`, `missing`
local there = redis.call('EXISTS', P .. ':t') == 1
-- A deleted tenant's version stays, and its log for a retention: who comes after it under its id would see what was its.
if ARGV[1] == 'new' and (there or config_version()) then return 'exists' end
if ARGV[1] == 'known' and not there then return 'missing' end
redis.call('SET', P .. ':t', ARGV[2])
return tostring(redis.call('INCR', P .. ':cv'))
