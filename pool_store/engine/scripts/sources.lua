-- The numbers of the sources in ARGV, which they keep.
-- Returns {birth of the pool, {number, ...}}.
local birth = redis.call('HGET', meta, 'birth')
if not birth then
  return redis.error_reply(GONE)
end
local numbers = {}
for i, source in ipairs(ARGV) do
  numbers[i] = number_of(source)
end
return {birth, numbers}
