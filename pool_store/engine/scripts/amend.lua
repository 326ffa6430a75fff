-- Changes fields of a shard's meta hash, but makes none: the pool may have been dropped.
-- ARGV: HSET or HINCRBY, then fields and their values.
if redis.call('HEXISTS', meta, 'birth') == 0 then
  return redis.error_reply(GONE)
end
for i = 2, #ARGV, 2 do
  redis.call(ARGV[1], meta, ARGV[i], ARGV[i + 1])
end
return 1
