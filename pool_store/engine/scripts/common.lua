-- What every script of a sub-pool begins with. KEYS[1] is the sub-pool's meta hash; its other keys have the same
-- hash tag, hence the same slot of a cluster:
--   PREFIX b:0, b:1, ...  buckets (hash id -> record), small enough that the server packs each into one block
--   PREFIX best           sorted set (id -> log-odds of its best candidate)
-- A record is replacements (3 bytes), the best candidate's body, then for every other candidate, best first, its
-- score (8) and body. A body is digest (32), time (8), step (4), source (3). The best's score rests in `best`
-- alone, so that an offer that loses against it touches no record. Scores are doubles throughout: they come packed,
-- and Redis keeps them exactly.
local meta = KEYS[1]
local prefix = meta:sub(1, -5)
local best = prefix .. 'best'
local HEAD, BODY, MORE = 3, 47, 55

-- Linear hashing: the number of buckets grows with the entries, one bucket at a time, and every split moves only
-- the bucket that it splits.
local function level(buckets)
  local power = 1
  while power * 2 <= buckets do
    power = power * 2
  end
  return power
end

local function bucket(hash, buckets, power)
  local place = hash % (2 * power)
  if place >= buckets then
    place = place - power
  end
  return prefix .. 'b:' .. place
end
