-- Raises a tenant's configuration version where Redis still lacks one that was known. ARGV: the version lacked, the version to be
local version = config_version()
if not version then return redis.error_reply(LOST) end
if tonumber(version) < tonumber(ARGV[1]) then call('SET', P .. ':cv', ARGV[2]) end
return 1
