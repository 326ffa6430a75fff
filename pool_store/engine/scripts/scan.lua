-- Every entry of the buckets ARGV[1] up to, not including, ARGV[2]; where that is -1, of all of them, and what
-- else a dump has of the same moment.
-- Returns {number of buckets, birth of the pool, {bucket, {id, record, id, record, ...}, {log-odds, ...}, bucket,
-- ...}, meta, histogram, timeline, history}, the last four as {field, value, ...}.
local buckets, birth = unpack(redis.call('HMGET', meta, 'buckets', 'birth'))
buckets = tonumber(buckets or nil)
if not buckets then
  return redis.error_reply('the database was emptied while the pool was open')
end
local first, last = tonumber(ARGV[1]), tonumber(ARGV[2])
if last < 0 or last > buckets then
  last = buckets
end
local found = {}
for place = first, last - 1 do
  local entries = redis.call('HGETALL', prefix .. 'b:' .. place)
  local ids = {}
  for i = 1, #entries, 2 do
    ids[#ids + 1] = entries[i]
  end
  if ids[1] then
    found[#found + 1] = place
    found[#found + 1] = entries
    found[#found + 1] = redis.call('ZMSCORE', best, unpack(ids))
  end
end
if ARGV[2] ~= '-1' then
  return {buckets, birth, found}
end
return {buckets, birth, found, redis.call('HGETALL', meta), redis.call('HGETALL', prefix .. 'histogram'),
  redis.call('HGETALL', prefix .. 'timeline'), redis.call('HGETALL', prefix .. 'history')}
