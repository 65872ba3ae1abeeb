-- Deletes a tenant's configuration, and makes the job that cancels what its webhooks hold. Its version stays, so that what
-- is under way finds its webhooks deleted and not Redis empty: it is cancelled as it comes to be claimed. ARGV: job
-- Returns the tenant's new configuration version and whether the job was made (1 or 0), or `missing`
if redis.call('DEL', P .. ':t') == 0 then return { 'missing' } end
local webhooks, total = {}, 0
for _, id in ipairs(redis.call('HKEYS', P .. ':wc')) do
  if held(id) > 0 then
    webhooks[#webhooks + 1] = id
    total = total + held(id)
  end
end
redis.call('DEL', P .. ':w', P .. ':wc', P .. ':k', P .. ':failing')
local made = '0'
if total > 0 then
  make_job(ARGV[1], 'cancel', table.concat(webhooks, ' '), total)
  made = '1'
end
return { tostring(redis.call('INCR', P .. ':cv')), made }
