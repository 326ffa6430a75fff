-- Decides one offer in one atomic step.
-- KEYS: meta (hash), entries (hash id -> JSON), best (sorted set id -> log-odds), released (sorted set digest -> time)
-- ARGV: id, log-odds, digest, lineage, fingerprint
-- Returns {status, best log-odds | false}. Scores travel and rest as the strings the client wrote, since Lua's
-- replies truncate numbers to integers and cjson rounds them to 14 digits.
local meta, entries, best, released = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, log_odds, digest, lineage, fingerprint = unpack(ARGV)
local REMEMBERED = 4

local bound = redis.call('HMGET', meta, 'fingerprint', 'keep')
if not bound[1] then
  return redis.error_reply('the database was emptied while the pool was open')
end

local stored = redis.call('HGET', entries, id)
local entry = stored and cjson.decode(stored) or {candidates = {}, recent = {}, offers = 0, replacements = 0}
local candidates, recent = entry.candidates, entry.recent
local function answer(status)
  return {status, candidates[1] and candidates[1].log_odds or false}
end

if fingerprint ~= bound[1] then
  redis.call('HINCRBY', meta, 'stale', 1)
  return answer('stale')
end

-- A client that lost the answer sends the offer again: it gets the same answer, and nothing is counted twice.
local held
for place, candidate in ipairs(candidates) do
  if candidate.digest == digest then
    held = place
    if candidate.log_odds == log_odds then
      return answer('replaced')
    end
  end
end
for _, offer in ipairs(recent) do
  if offer[1] == digest and offer[2] == log_odds then
    return answer(offer[3])
  end
end

-- An image that is held already competes with itself, so that no image is kept twice.
local score, status = tonumber(log_odds), 'kept'
local rival = held or (#candidates >= tonumber(bound[2]) and #candidates)
if not rival or score > tonumber(candidates[rival].log_odds) then
  status = 'replaced'
  if rival then
    local loser = table.remove(candidates, rival)
    redis.call('ZADD', released, redis.call('TIME')[1], loser.digest)
  end
  local place = 1
  while candidates[place] and tonumber(candidates[place].log_odds) >= score do
    place = place + 1
  end
  table.insert(candidates, place, {digest = digest, log_odds = log_odds, lineage = lineage})
  redis.call('ZADD', best, candidates[1].log_odds, id)
  entry.replacements = entry.replacements + 1
  redis.call('HINCRBY', meta, 'replacements', 1)
end

entry.offers = entry.offers + 1
redis.call('HINCRBY', meta, 'offers', 1)
table.insert(recent, 1, {digest, log_odds, status})
recent[REMEMBERED + 1] = nil
redis.call('HSET', entries, id, cjson.encode(entry))
return answer(status)
