-- The entries of the ids in ARGV.
-- Returns {birth of the pool, {best log-odds | false, ...}, {record | false, ...}}.
local birth = redis.call('HGET', meta, 'birth')
if not birth then
  return redis.error_reply(GONE)
end
return {birth, redis.call('ZMSCORE', best, unpack(ARGV)), redis.call('HMGET', entries, unpack(ARGV))}
