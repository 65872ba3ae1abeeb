-- Saves a webhook, and makes the job that follows for what it holds. ARGV: id, revision it must have now (0: none, -1: any),
--   stored webhook, what claims read of it, job, its kind where the webhook was off, its kind where it was on ('': none)
-- Returns the tenant's new configuration version and whether the job was made (1 or 0), or `missing`, `stale`
if not config_version() then return redis.error_reply(LOST) end
-- Deleted while the webhook was on its way: a tenant of the same id that comes later must not find it.
if redis.call('EXISTS', P .. ':t') == 0 then return { 'missing' } end
local id, expected = ARGV[1], tonumber(ARGV[2])
local compact = redis.call('HGET', P .. ':wc', id)
if expected == 0 and compact then return { 'stale' } end
local kind = ''
if expected ~= 0 then
  if not compact then return { 'missing' } end
  local revision, on = string.match(compact, '^1 (%d+) (%d)')
  if expected > 0 and tonumber(revision) ~= expected then return { 'stale' } end
  kind = on == '1' and ARGV[7] or ARGV[6]
end
redis.call('HSET', P .. ':w', id, ARGV[3])
redis.call('HSET', P .. ':wc', id, ARGV[4])
local made = '0'
if kind ~= '' and held(id) > 0 then
  make_job(ARGV[5], kind, id, held(id))
  made = '1'
end
return { tostring(redis.call('INCR', P .. ':cv')), made }
