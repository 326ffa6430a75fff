-- Begins or ends the removal of the pool of birth ARGV[1]; to its first shard.
-- ARGV[2] is 'end', or 'begin', and the names of a shard's keys follow. Between the two the meta hash tells that
-- the pool is being removed, so that no other is made under its name.
-- Returns whether it is that pool's removal.
local dropping = redis.call('HGET', meta, 'dropping')
if ARGV[2] == 'end' then
  if dropping == ARGV[1] then
    redis.call('UNLINK', meta)
  end
elseif dropping ~= ARGV[1] then
  local found = redis.call('HMGET', meta, 'birth', 'subpools')
  if found[1] ~= ARGV[1] then
    return 0
  end
  for i = 3, #ARGV do
    redis.call('UNLINK', prefix .. ARGV[i])
  end
  redis.call('HSET', meta, 'dropping', ARGV[1], 'subpools', found[2])
end
return 1
