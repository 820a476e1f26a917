-- One page of a user's jobs, newest first. What Redis has forgotten is dropped from the set.
-- KEYS: user's jobs, queue
-- ARGV: template of a job's key, statuses or '' for any, first (from 0), limit,
--       now, seconds that an archive is kept
-- Returns {how many there are in all, id, snapshot, id, snapshot...}
local set, queue = KEYS[1], KEYS[2]
local first, limit, now, kept = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local total, page, gone = 0, {}, {}

-- A completed job whose archive's time is over counts as expired already.
local function status_of(known)
  if known[1] == 'completed' and tonumber(known[2] or now) + kept <= now then return 'expired' end
  return known[1]
end

local function put(id)
  if total >= first and total < first + limit then
    page[#page + 1] = id
    page[#page + 1] = snapshot(string.format(ARGV[1], id), queue, id)
  end
  total = total + 1
end

local function consider(id)
  local known = redis.call('HMGET', string.format(ARGV[1], id), 'status', 'completed_at')
  local status = status_of(known)
  if not status then
    gone[#gone + 1] = id
  elseif ARGV[2] == '' or allowed(ARGV[2], status) then
    put(id)
  end
end

-- One call for many is ten times as fast as one for each: where all are wanted
-- and all are there, no job is looked at but those of the page.
local function all_there(ids)
  local jobs = {}
  for place, id in ipairs(ids) do jobs[place] = string.format(ARGV[1], id) end
  return redis.call('EXISTS', unpack(jobs)) == #ids
end

local start, ids = 0, nil
repeat
  ids = redis.call('ZREVRANGE', set, start, start + 999)
  local take = ARGV[2] == '' and #ids > 0 and all_there(ids) and put or consider
  for _, id in ipairs(ids) do take(id) end
  start = start + 1000
until #ids < 1000
-- In pieces: Lua's stack holds some 8,000 values.
for place = 1, #gone, 2000 do
  redis.call('ZREM', set, unpack(gone, place, math.min(place + 1999, #gone)))
end
return { total, unpack(page) }
