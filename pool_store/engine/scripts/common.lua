-- What every script of a shard begins with, after the constants of `records.py`. KEYS[1] is the shard's meta hash;
-- its other keys have the same hash tag, hence the same slot of a cluster:
--   PREFIX entries        hash (id -> record)
--   PREFIX best           sorted set (id -> log-odds of its best candidate)
-- A record is replacements (3 bytes), the best candidate's body, then for every other candidate, best first, its
-- score (8) and body. A body is digest (32), time (8), step (4), source (3). The best's score rests in `best`
-- alone, so that an offer that loses against it touches no record. Scores are doubles throughout: they come packed,
-- and Redis keeps them exactly.
local meta = KEYS[1]
local prefix = meta:sub(1, -5)
local best, entries = prefix .. 'best', prefix .. 'entries'
local GONE = 'the database was emptied while the pool was open'
local MOST = 2 ^ 24 - 1

-- The number of a source, which it keeps.
local function number_of(source)
  local key = prefix .. 'sources'
  local place = tonumber(redis.call('HGET', key, source) or nil)
  if not place then
    place = redis.call('HLEN', key)
    if place > MOST then
      error('the pool has candidates of too many runs')
    end
    redis.call('HSET', key, source, place)
  end
  return place
end
