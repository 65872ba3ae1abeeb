-- Saves a tenant. ARGV: `new` or `known`, stored tenant. Returns its configuration version, or `exists`, `missing`
local there = redis.call('EXISTS', P .. ':t') == 1
if ARGV[1] == 'new' and there then return 'exists' end
if ARGV[1] == 'known' and not there then return 'missing' end
-- A deleted tenant had this id: what is older than this moment was its, and is nobody's now.
if ARGV[1] == 'new' and config_version() then
  redis.call('SET', P .. ':born', NOW)
  redis.call('UNLINK', P .. ':log')
end
redis.call('SET', P .. ':t', ARGV[2])
return tostring(redis.call('INCR', P .. ':cv'))
