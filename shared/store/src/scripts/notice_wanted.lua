-- Whether a mail is worth queueing. ARGV: webhook, kind. Returns 1 where it is; 0 where one is queued, or was sent within the
-- hour, or the webhook fails no more, or it was told already that it does
-- What is known of mails: `:mail:<webhook>:<kind>` = q queued | s<token> being sent | m sent within the hour; `:failing`, a
-- hash: since when a webhook fails, unix milliseconds, with an n behind where that was noticed.
local id, kind = ARGV[1], ARGV[2]
if redis.call('EXISTS', P .. ':mail:' .. id .. ':' .. kind) == 1 then return 0 end
if kind == 'failing' then
  local since = redis.call('HGET', P .. ':failing', id)
  if not since or string.find(since, 'n', 1, true) then return 0 end
end
return 1
