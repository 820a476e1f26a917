-- Take jobs under a lease: those whose lease has lapsed, then the queue.
-- KEYS: queue, active, what this process claimed last, installation, turns
-- ARGV: limit, token, lease in seconds, now, statuses a claim may start from,
--       templates of the keys job, files, events, checkpoint, headers,
--       '1' with the queue, '1' with a suspect, deaths of a suspect, of a poison job,
--       name of the installation
-- Returns {{id, snapshot, spec, headers, checkpoint, files, deaths}, ...}
local queue, active, last_claim, installation = unpack(KEYS)
local limit, token, lease, now, sources = unpack(ARGV, 1, 5)
local may_suspect, suspect, poison = ARGV[12] == '1', tonumber(ARGV[13]), tonumber(ARGV[14])
limit = tonumber(limit)
local clock = server_time()
local ids, taken = {}, {}

local function name(index, id) return string.format(ARGV[index], id) end

local function answer(id)
  local job = name(6, id)
  ids[#ids + 1] = id
  taken[#taken + 1] = {
    id,
    snapshot(job, queue, id),
    redis.call('HGET', job, 'spec'),
    redis.call('GET', name(10, id)),
    redis.call('GET', name(9, id)),
    redis.call('HGETALL', name(7, id)),
    redis.call('HGET', job, 'deaths') or '0',
  }
end

local function take(id)
  local job = name(6, id)
  redis.call('HSET', job, 'status', 'processing', 'token', token, 'updated_at', now)
  redis.call('HDEL', job, 'flight')
  redis.call('HINCRBY', job, 'attempts', 1)
  redis.call('HSETNX', job, 'started_at', now)
  redis.call('ZADD', active, clock + lease, id)
  append(job, name(8, id), 'progress', last_event(job, 'processing', false))
  answer(id)
end

-- How often a job has taken its process with it. A lease that lapsed with its
-- token there is a death; without the token it is counted no second time.
local function deaths_of(job)
  if redis.call('HDEL', job, 'token') == 1 then return count_since(job, 'deaths') end
  return tonumber(redis.call('HGET', job, 'deaths') or 0)
end

-- Whether a job may be taken now: of suspects one at a time, so that the one
-- that kills is told from those beside it.
local function allows(deaths)
  if deaths < suspect or deaths >= poison then return true end
  local allowed_now = may_suspect
  may_suspect = false
  return allowed_now
end

-- The answer to this very claim was lost: give it again.
local again = redis.call('GET', last_claim)
if again and string.match(again, '^%S+') == token then
  for id in string.gmatch(string.match(again, '^%S+(.*)$'), '%S+') do
    if redis.call('HGET', name(6, id), 'token') == token then answer(id) end
  end
  return taken
end

-- Each turn takes jobs out of what has lapsed, or passes over them.
local passed = 0
while #taken < limit do
  local lapsed = redis.call('ZRANGEBYSCORE', active, '-inf', clock, 'LIMIT', passed, limit - #taken)
  if #lapsed == 0 then break end
  for _, id in ipairs(lapsed) do
    local job = name(6, id)
    if redis.call('HGET', job, 'status') ~= 'processing' then
      redis.call('ZREM', active, id)
    elseif allows(deaths_of(job)) then
      take(id)
    else
      passed = passed + 1
    end
  end
end

-- Who comes from now on begins with the turn of the job that has just been taken.
local function begin_turn(rank, user, score)
  if math.floor(score / RANK) ~= rank then return end -- of a version without turns
  redis.call('HSET', KEYS[5], (turn_fields(rank, user)), math.floor(score % RANK / TURN))
  left_queue(queue, KEYS[5], rank, user, score)
end

while ARGV[11] == '1' and #taken < limit do
  local popped = redis.call('ZPOPMIN', queue)
  if #popped == 0 then break end
  local known = redis.call('HMGET', name(6, popped[1]), 'status', 'rank', 'user')
  if known[1] then begin_turn(tonumber(known[2]), known[3], tonumber(popped[2])) end
  -- One that is under way was put aside.
  if known[1] == 'processing' or (known[1] and allowed(sources, known[1])) then take(popped[1]) end
end

if #ids > 0 then
  redis.call('SET', installation, ARGV[15], 'NX')
  redis.call('SET', last_claim, token .. ' ' .. table.concat(ids, ' '), 'EX', 60)
end
return taken
