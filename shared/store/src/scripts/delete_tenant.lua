-- Deletes a tenant's configuration. Its version stays, so that what is under way finds its webhooks deleted and not
-- Redis empty: it is cancelled as it comes to be claimed.
if redis.call('DEL', P .. ':t') == 0 then return 'missing' end
redis.call('DEL', P .. ':w', P .. ':wc', P .. ':k')
return tostring(redis.call('INCR', P .. ':cv'))
