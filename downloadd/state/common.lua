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

-- The queue is one sorted set, ordered by rank, then by turn, then by arrival. Of
-- each user's waiting jobs the first has the turn that is on, the next the one
-- after it: users take turns, and one user's jobs keep their order. (Start-time
-- fair queueing, Goyal, Vin and Cheng 1996, with jobs of one size.) A score is
-- below 2^53, so that it is exact: turns up to 2^26, arrivals modulo 2^25.
local RANK, TURN, LAST_TURN = 2251799813685248, 33554432, 67108863

-- Fields of the turns: the one that is on; a user's last one, and waiting jobs.
local function turn_fields(rank, user)
  return 'on:' .. rank, 'last:' .. rank .. ':' .. user, 'jobs:' .. rank .. ':' .. user
end

-- Put a job into its user's next turn.
local function enqueue(queue, sequence, turns, rank, user, id)
  local on, last, jobs = turn_fields(rank, user)
  local known = redis.call('HMGET', turns, on, last)
  local turn = math.max(tonumber(known[1] or 0), tonumber(known[2] or -1) + 1)
  turn = math.min(turn, LAST_TURN)
  redis.call('HSET', turns, last, turn)
  redis.call('HINCRBY', turns, jobs, 1)
  local place = redis.call('INCR', sequence) % TURN
  redis.call('ZADD', queue, string.format('%.0f', rank * RANK + turn * TURN + place), id)
end

-- Note that a job, which had this score, has left the queue.
local function left_queue(queue, turns, rank, user, score)
  if redis.call('EXISTS', queue) == 0 then return redis.call('DEL', turns) end
  local turn = math.floor(score % RANK / TURN)
  local _, last, jobs = turn_fields(rank, user)
  if redis.call('HINCRBY', turns, jobs, -1) <= 0 then
    redis.call('HDEL', turns, last, jobs)
  elseif tonumber(redis.call('HGET', turns, last)) == turn then
    redis.call('HSET', turns, last, turn - 1)
  end
end

-- Keep keys for so many seconds yet, where they would go sooner.
local function keep(names, seconds)
  for _, key in ipairs(names) do
    local left = redis.call('TTL', key)
    if left >= 0 and left < tonumber(seconds) then redis.call('EXPIRE', key, seconds) end
  end
end

-- Seconds for which a job is kept beyond the next try to deliver the news of its end.
local KEPT_FOR_NEWS = 86400
-- Ends of a job whose deliveries can be looked up.
local MESSAGES_KEPT = 20

-- The ids of the messages that a job's ends have made, the oldest first.
local function messages_of(deliveries)
  local ids = {}
  for id in string.gmatch(redis.call('HGET', deliveries, 'ids') or '', '%S+') do
    ids[#ids + 1] = id
  end
  return ids
end

-- Put the news of a job's end into the outbox, where somebody is to be called back.
local function send_news(job, files, deliveries, webhooks, id, status, control)
  if (redis.call('HGET', job, 'callback_url') or '') == '' then return end
  local number = redis.call('HINCRBY', job, 'ends', 1)
  local message = string.format('msg_%s_%d', (string.gsub(id, '%-', '')), number)
  local ids = messages_of(deliveries)
  ids[#ids + 1] = message
  if #ids > MESSAGES_KEPT then
    local oldest = table.remove(ids, 1)
    for _, field in ipairs({ ':type', ':status', ':at', ':tries', ':log' }) do
      redis.call('HDEL', deliveries, oldest .. field)
    end
  end
  redis.call('HSET', deliveries, 'ids', table.concat(ids, ' '), message .. ':tries', 0,
    message .. ':type', 'download.' .. status, message .. ':status', 'pending',
    message .. ':at', server_time())
  redis.call('HDEL', deliveries, 'token')
  redis.call('ZADD', webhooks, server_time(), id)
  redis.call('EXPIRE', deliveries, redis.call('TTL', job))
  keep({ job, files, deliveries }, KEPT_FOR_NEWS)
  redis.call('PUBLISH', control, 'webhook')
end

-- A job that is queued once more has not ended: nobody is to hear that it has.
local function withdraw_news(deliveries, webhooks, id)
  local ids = messages_of(deliveries)
  local status = #ids > 0 and ids[#ids] .. ':status'
  if status and redis.call('HGET', deliveries, status) == 'pending' then
    redis.call('HSET', deliveries, status, 'superseded')
    redis.call('HDEL', deliveries, 'token')
  end
  redis.call('ZREM', webhooks, id)
  redis.call('PERSIST', deliveries)
end
