-- Deletes a webhook, and makes the job that cancels what it holds; what is pending is cancelled as it comes to be claimed.
-- ARGV: id, job, revision it must have now (absent: any)
-- Returns the tenant's new configuration version and whether the job was made (1 or 0), or `missing`, `stale`
if not config_version() then return redis.error_reply(LOST) end
local id, expected = ARGV[1], tonumber(ARGV[3])
local compact = redis.call('HGET', P .. ':wc', id)
if not compact and redis.call('HEXISTS', P .. ':w', id) == 0 then return { 'missing' } end
if expected and tonumber(string.match(compact or '', '^1 (%d+)')) ~= expected then return { 'stale' } end
redis.call('HDEL', P .. ':wc', id)
redis.call('HDEL', P .. ':w', id)
redis.call('HDEL', P .. ':failing', id)
local made = '0'
if held(id) > 0 then
  make_job(ARGV[2], 'cancel', id, held(id))
  made = '1'
end
return { tostring(redis.call('INCR', P .. ':cv')), made }
