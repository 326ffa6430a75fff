-- The entries of some ids. ARGV: id, hash (4 bytes), id, hash, ...
-- Returns {birth of the pool, {best log-odds | false, ...}, {record | false, ...}}.
local buckets, birth = unpack(redis.call('HMGET', meta, 'buckets', 'birth'))
buckets = tonumber(buckets or nil)
if not buckets then
  return redis.error_reply('the database was emptied while the pool was open')
end
local power = level(buckets)
local ids, records = {}, {}
for i = 1, #ARGV, 2 do
  local id = ARGV[i]
  ids[#ids + 1] = id
  records[#ids] = redis.call('HGET', bucket(struct.unpack('>I4', ARGV[i + 1]), buckets, power), id)
end
return {birth, redis.call('ZMSCORE', best, unpack(ids)), records}
