-- Shared by every script. Each runs as one step: nobody sees it half done.
-- Keys of jobs that a script only learns while it runs are made from templates
-- in ARGV; the hash tag in the prefix puts them in the slot of the declared ones.

local EVENTS_KEPT = 1000

-- Append an event to a job's stream and tell whoever listens now.
local function append(job, events, kind, data)
  local id = redis.call('XADD', events, 'MAXLEN', '~', EVENTS_KEPT, '*', 't', kind, 'd', data)
  redis.call('HSET', job, 'cursor', id, 'event', data)
  redis.call('PUBLISH', events, id .. ' ' .. kind .. ' ' .. data)
end

-- Seconds as users are told them.
local function seconds_told(seconds)
  return math.max(1, math.ceil(seconds))
end

-- The data of the job's last event, saying that it is in another status now.
local function last_event(job, status, ended)
  local data = cjson.decode(redis.call('HGET', job, 'event'))
  data.status = status
  if ended then data.stage = cjson.null end
  local left = not ended and tonumber(redis.call('HGET', job, 'work_left') or '')
  data.estimatedTimeRemaining = left and seconds_told(left) or cjson.null
  return cjson.encode(data)
end

-- What a status read returns: the fields, then the place in the queue from 1.
local function snapshot(job, queue, id)
  local values = redis.call('HMGET', job, unpack(FIELDS))
  local rank = values[1] == 'queued' and redis.call('ZRANK', queue, id)
  values[#FIELDS + 1] = rank and rank + 1
  return values
end

-- Whether a job in this status may make the move whose sources are listed.
local function allowed(sources, status)
  return string.find(' ' .. sources .. ' ', ' ' .. status .. ' ', 1, true) ~= nil
end

-- Seconds since the epoch on the server's clock, which all leases go by.
local function server_time()
  local now = redis.call('TIME')
  return tonumber(now[1]) + tonumber(now[2]) / 1000000
end

-- An ended job that failed to make anything does not stand for its body.
local function free_body(job, template, id)
  local digest = redis.call('HGET', job, 'dedupe')
  if not digest then return end
  local key = string.format(template, digest)
  if redis.call('GET', key) == id then redis.call('DEL', key) end
end

-- Count something that befell a job, from 1 again when a file has settled since
-- the time before: a job that gets on is not what is at fault.
local function count_since(job, field)
  local known = redis.call('HMGET', job, field, field .. '_at', 'files_completed', 'files_failed')
  local settled = tonumber(known[3] or 0) + tonumber(known[4] or 0)
  local count = tonumber(known[1] or 0) + 1
  if settled > tonumber(known[2] or 0) then count = 1 end
  redis.call('HSET', job, field, count, field .. '_at', settled)
  return count
end

-- Put a job behind those of its rank.
local function enqueue(queue, sequence, rank, id)
  local place = redis.call('INCR', sequence)
  redis.call('ZADD', queue, string.format('%.0f', tonumber(rank) * 281474976710656 + place), id)
end
