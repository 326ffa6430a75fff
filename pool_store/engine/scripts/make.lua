-- Makes a shard, unless there is one already. ARGV: fields of its meta hash and their values.
-- Returns whether it was made.
if redis.call('EXISTS', meta) == 1 then
  return 0
end
redis.call('HSET', meta, unpack(ARGV))
return 1
