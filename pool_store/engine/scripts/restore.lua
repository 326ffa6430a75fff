-- Replaces the contents of a shard by those that were put aside for it, in one step.
-- ARGV: birth of the pool, prefix of the keys put aside, number of entries in them, fields of the meta hash and
-- their values.
local staged, expected = prefix .. ARGV[2], tonumber(ARGV[3])
if redis.call('HGET', meta, 'birth') ~= ARGV[1] then
  return redis.error_reply(GONE)
end
if redis.call('HLEN', staged .. 'entries') ~= expected or redis.call('ZCARD', staged .. 'best') ~= expected then
  return redis.error_reply('a part of what is restored is gone')
end
local counters = {offers = true, replacements = true, stale = true, size = true}
for _, field in ipairs(redis.call('HKEYS', meta)) do
  if counters[field] or field:sub(1, 6) == 'stage:' then
    redis.call('HDEL', meta, field)
  end
end
redis.call('HSET', meta, 'sum', 0, 'sum_rest', 0, 'rewards', 0, 'rewards_rest', 0)
for i = 4, #ARGV, 2 do
  redis.call('HSET', meta, ARGV[i], ARGV[i + 1])
end
for _, name in ipairs({'entries', 'best', 'histogram', 'timeline', 'latest', 'history'}) do
  redis.call('UNLINK', prefix .. name)
  if redis.call('EXISTS', staged .. name) == 1 then
    redis.call('RENAME', staged .. name, prefix .. name)
    redis.call('PERSIST', prefix .. name)
  end
end
redis.call('UNLINK', prefix .. 'replays:0', prefix .. 'replays:1')
local released, start = staged .. 'released', 0
repeat
  local page = redis.call('LRANGE', released, start, start + 999)
  if page[1] then
    redis.call('RPUSH', prefix .. 'released', unpack(page))
  end
  start = start + 1000
until not page[1]
redis.call('UNLINK', released)
return 1
