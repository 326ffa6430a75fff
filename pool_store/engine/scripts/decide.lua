-- Decides a batch of offers, in their order, in one atomic step: the one way into a pool.
-- Everything is read and computed first and written last, so that a batch that fails has changed nothing.
-- ARGV: fingerprint of the client's pool, number and bytes of images to count as stored, number of sources, the
-- sources (stage (1), worker (2), run), then all offers in one: each flag, hash of the id (4), log-odds (8),
-- digest (32), time (8), step (4), number of its source (2), bytes of its id (2), id. Flags: S of another scorer
-- than the pool's, C the image is known to be stored, F it is not.
-- Returns, packed for every offer, a letter and the entry's best log-odds (NaN: none): r replaced, k kept,
-- s stale, w wanted: would enter, or follows one that would; nothing was done, offer again with C.
local REMEMBERED = 2048 -- replacements and batches at least, twice as many at most, that are recognised

local bound = redis.call('HMGET', meta, 'fingerprint', 'keep', 'history', 'generation',
  'sum', 'sum_rest', 'rewards', 'rewards_rest')
if not bound[1] then
  return redis.error_reply(GONE)
end
local keep, history, generation = tonumber(bound[2]), tonumber(bound[3]), bound[4]
local ours = ARGV[1] == bound[1]
local clock = redis.call('TIME')

-- Sums are kept as a double and what it lacks (Knuth's two-sum), or a million replacements would blur them.
local sum, rewards = {tonumber(bound[5]), tonumber(bound[6])}, {tonumber(bound[7]), tonumber(bound[8])}
if not (keep and history and sum[1] and sum[2] and rewards[1] and rewards[2]) then
  return redis.error_reply('its settings are damaged')
end
local function add(total, value)
  local high = total[1] + value
  local part = high - total[1]
  local rest = total[2] + ((total[1] - (high - part)) + (value - part))
  total[1] = high + rest
  total[2] = rest - (total[1] - high)
end

local bins = {}
local function count(log_odds, sign)
  local tail = math.exp(-math.abs(log_odds))
  add(sum, sign * log_odds)
  add(rewards, sign * (log_odds >= 0 and 1 / (1 + tail) or tail / (1 + tail)))
  local bin = math.max(0, math.min(BINS - 1, math.floor((log_odds - LOWEST) / WIDTH)))
  bins[bin] = (bins[bin] or 0) + sign
end

local sources, stages, known = {}, {}, 4 + tonumber(ARGV[4])
for i = 5, known do
  stages[i - 4] = ARGV[i]:byte(1)
end
local function source(number)
  sources[number] = sources[number] or struct.pack('>I3', number_of(ARGV[4 + number]))
  return sources[number]
end

local packed, ids, places, tags, flags, offered, numbers = ARGV[known + 1], {}, {}, {}, {}, {}, {}
local following = 1
while following <= #packed do
  local i, at = #ids + 1, following
  places[i], tags[i] = at, packed:sub(at + 1, at + 20) -- hash, score and the digest's first 8 bytes
  flags[i], offered[i] = packed:byte(at), struct.unpack('>d', packed, at + 5)
  numbers[i], ids[i], following = struct.unpack('>I2I2c0', packed, at + 57)
end
local scores = {}
for i, score in ipairs(redis.call('ZMSCORE', best, unpack(ids))) do
  scores[ids[i]] = tonumber(score or nil)
end

-- A client that lost the answer sends the offers again: it gets the same answers, and nothing is counted twice.
-- A losing offer would lose again; only its count must not be repeated, so the hash of its batch is kept.
local replays, older = prefix .. 'replays:' .. generation, prefix .. 'replays:' .. (1 - generation)
local this = redis.sha1hex(packed)
tags[#tags + 1] = this
local known_as = {}
for _, key in ipairs({older, replays}) do
  for i, letter in ipairs(redis.call('HMGET', key, unpack(tags))) do
    known_as[tags[i]] = letter or known_as[tags[i]]
  end
end

local answers, remember, ranked, released, latest = {}, {}, {}, {}, {}
local offers, replacements, stale, by_stage = 0, 0, 0, {}

-- Counts an offer, whether it enters or not.
local function offered_in(stage, entered)
  local of_stage = by_stage[stage]
  if not of_stage then
    of_stage = {0, 0}
    by_stage[stage] = of_stage
  end
  offers, of_stage[1] = offers + 1, of_stage[1] + 1
  if entered then
    replacements, of_stage[2] = replacements + 1, of_stage[2] + 1
  end
end

local function kept(i)
  if not known_as[this] and not known_as[tags[i]] then
    offered_in(stages[numbers[i]], false)
    if flags[i] == 67 then -- C: it had to wait, and will not when it comes again with its batch
      remember[#remember + 1], remember[#remember + 2] = tags[i], 'k'
      known_as[tags[i]] = 'k'
    end
  end
  return 'k'
end

-- What the batch makes of the entries and histories that it changes.
local changed, pasts = {}, {}

-- Enters the candidate in the place that it deserves, instead of the one at `rival`.
local function enter(id, at, score, candidates, rival, held, stage, number)
  if rival then
    local loser = table.remove(candidates, rival)
    if not held then
      released[#released + 1] = loser[2]:sub(1, 32) .. struct.pack('>I4', tonumber(clock[1]))
    end
  end
  local place = 1
  while candidates[place] and candidates[place][1] >= score do
    place = place + 1
  end
  table.insert(candidates, place, {score, packed:sub(at + 13, at + 56) .. source(number)})
  latest[#latest + 1], latest[#latest + 2] = clock[1] .. '.' .. string.format('%06d', clock[2]), id
  if place == 1 then
    if scores[id] then
      count(scores[id], -1)
    end
    count(score, 1)
    scores[id] = score
    ranked[#ranked + 1], ranked[#ranked + 2] = string.format('%.17g', score), id
  end
  if history > 0 then
    -- time, step, stage, log-odds, digest; newest first
    local item = packed:sub(at + 45, at + 56) .. struct.pack('>Bd', stage, score) .. packed:sub(at + 13, at + 44)
    local past = pasts[id] or redis.call('HGET', prefix .. 'history', id) or ''
    pasts[id] = (item .. past):sub(1, history * #item)
  end
end

local waiting = {}
local function decide(i)
  local id, tag, at, score, number = ids[i], tags[i], places[i], offered[i], numbers[i]
  if waiting[id] then
    return 'w'
  elseif not ours or flags[i] == 83 then -- S
    stale = stale + 1
    return 's'
  elseif known_as[tag] == 'r' then
    return 'r'
  end

  -- Most offers are for an entry with one candidate, and lose: the score alone decides, and no record is read.
  if keep == 1 and scores[id] and score < scores[id] then
    return kept(i)
  end

  local record = changed[id] or redis.call('HGET', entries, id)
  local digest = packed:sub(at + 13, at + 44)
  local candidates, held, replaced = {}, nil, 0
  if record then
    replaced = struct.unpack('>I3', record)
    candidates[1] = {scores[id], record:sub(HEAD + 1, HEAD + BODY)}
    for at = HEAD + BODY + 1, #record, MORE do
      candidates[#candidates + 1] = {struct.unpack('>d', record, at), record:sub(at + 8, at + MORE - 1)}
    end
    for place = 1, #candidates do
      if candidates[place][2]:sub(1, 32) == digest then
        held = place
      end
    end
  end

  if held and candidates[held][1] == score then
    return 'r'
  end

  -- An image that is held already competes with itself, so that no image is kept twice.
  local rival = held or (#candidates >= keep and #candidates)
  local enters = not rival or score > candidates[rival][1]
  if not enters then
    return kept(i)
  elseif flags[i] == 70 then -- F
    waiting[id] = true
    return 'w'
  end
  local stage = stages[number]
  offered_in(stage, true)
  enter(id, at, score, candidates, rival, held, stage, number)
  local parts = {struct.pack('>I3', math.min(replaced + 1, MOST)), candidates[1][2]}
  for place = 2, #candidates do
    parts[#parts + 1] = struct.pack('>d', candidates[place][1])
    parts[#parts + 1] = candidates[place][2]
  end
  changed[id] = table.concat(parts)
  known_as[tag] = 'r'
  remember[#remember + 1], remember[#remember + 2] = tag, 'r'
  return 'r'
end

for i = 1, #ids do
  answers[i] = struct.pack('>c1d', decide(i), scores[ids[i]] or 0 / 0)
end

local timeline, minute = prefix .. 'timeline', math.floor(clock[1] / 60)
local in_minute = redis.call('HGET', timeline, minute) or '0 0'
local offers_before, replacements_before = in_minute:match('^(%d+) (%d+)$')
if not offers_before then
  return redis.error_reply('its timeline is damaged')
end

local counted = {}
local function add_to(key, field, change)
  if tonumber(change) ~= 0 then
    if not (redis.call('HGET', key, field) or '0'):match('^%-?%d+$') then
      error('a counter is damaged')
    end
    counted[#counted + 1] = {key, field, change}
  end
end
for bin, change in pairs(bins) do
  add_to(prefix .. 'histogram', bin, change)
end
add_to(meta, 'blobs', ARGV[2])
add_to(meta, 'blob_bytes', ARGV[3])
add_to(meta, 'stale', stale)
add_to(meta, 'offers', offers)
add_to(meta, 'replacements', replacements)
for stage, counts in pairs(by_stage) do
  add_to(meta, 'stage:' .. stage .. ':offers', counts[1])
  add_to(meta, 'stage:' .. stage .. ':replacements', counts[2])
end

for _, count in ipairs(counted) do
  redis.call('HINCRBY', unpack(count))
end
for id, record in pairs(changed) do
  redis.call('HSET', entries, id, record)
end
for id, past in pairs(pasts) do
  redis.call('HSET', prefix .. 'history', id, past)
end
if ranked[1] then
  redis.call('ZADD', best, unpack(ranked))
end
if latest[1] then
  redis.call('ZADD', prefix .. 'latest', unpack(latest))
  redis.call('ZREMRANGEBYRANK', prefix .. 'latest', 0, -LATEST - 1)
end
if released[1] then
  redis.call('RPUSH', prefix .. 'released', unpack(released))
end
if offers > 0 then
  if replacements > 0 then
    redis.call('HSET', meta, 'sum', string.format('%.17g', sum[1]), 'sum_rest', string.format('%.17g', sum[2]),
      'rewards', string.format('%.17g', rewards[1]), 'rewards_rest', string.format('%.17g', rewards[2]))
  end

  redis.call('HSET', timeline, minute, (offers_before + offers) .. ' ' .. (replacements_before + replacements))
  if in_minute == '0 0' then
    for _, old in ipairs(redis.call('HKEYS', timeline)) do
      if tonumber(old) <= minute - MINUTES then
        redis.call('HDEL', timeline, old)
      end
    end
  end

  if offers > replacements then
    remember[#remember + 1], remember[#remember + 2] = this, 'b'
  end
  redis.call('HSET', replays, unpack(remember))
  if redis.call('HLEN', replays) >= REMEMBERED then
    redis.call('UNLINK', older)
    redis.call('HSET', meta, 'generation', 1 - generation)
  end
end
return table.concat(answers)
