-- Makes a tenant's configuration version at least this, where Redis has it at all. ARGV: the version
local version = config_version()
if not version then return redis.error_reply(LOST) end
if tonumber(version) < tonumber(ARGV[1]) then call('SET', P .. ':cv', ARGV[1]) end
return 1
