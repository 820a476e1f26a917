-- Write a job and queue it, unless an earlier one stands for it.
-- KEYS: job, events, queue, sequence, user's jobs, headers, idempotency, dedupe
--       (these two are the job's key where there is none), turns, everybody's jobs
-- ARGV: id, queue limit, rank, created_at, control channel, template of a job's key,
--       idempotency digest or '', body of the idempotency key, its seconds,
--       body digest or '', its seconds, seconds in the user's list,
--       event data, headers or '', places that need not wait, seconds that each further
--       one waits, seconds of work or '', fields...
-- Returns {'made', id, place in the queue, seconds to the job's end or ''} | {'key'|'body', id} | {'conflict'} | {'full'}
local job, events, queue, sequence, user_jobs, headers = unpack(KEYS, 1, 6)
local idempotency, dedupe = KEYS[7], KEYS[8]
local id, created = ARGV[1], tonumber(ARGV[4])
local by_key, by_body = ARGV[7] ~= '', ARGV[10] ~= ''

-- The answer to an earlier try was lost.
if redis.call('EXISTS', job) == 1 then
  local place = (redis.call('ZRANK', queue, id) or -1) + 1
  return { 'made', id, place, redis.call('HGET', job, 'estimated_time') or '' }
end

local function status_of(other)
  return redis.call('HGET', string.format(ARGV[6], other), 'status')
end

if by_key then
  local known = redis.call('GET', idempotency)
  if known then
    local other, body = string.match(known, '^(%S+) (.*)$')
    if body ~= ARGV[8] then return { 'conflict' } end
    if status_of(other) then return { 'key', other } end
  end
elseif by_body then
  local other = redis.call('GET', dedupe)
  local status = other and status_of(other)
  if status == 'queued' or status == 'processing' or status == 'completed' then
    return { 'body', other }
  end
end

local waiting = redis.call('ZCARD', queue)
if waiting >= tonumber(ARGV[2]) then return { 'full' } end

redis.call('HSET', job, 'rank', ARGV[3], unpack(ARGV, 18))
if ARGV[14] ~= '' then
  redis.call('SET', headers, ARGV[14])
  redis.call('HSET', job, 'headers', '1')
end
local user = redis.call('HGET', job, 'user')
enqueue(queue, sequence, KEYS[9], tonumber(ARGV[3]), user, id)
for _, jobs in ipairs({ user_jobs, KEYS[10] }) do
  redis.call('ZREMRANGEBYSCORE', jobs, '-inf', created - tonumber(ARGV[12]))
  redis.call('ZADD', jobs, ARGV[4], id)
  redis.call('EXPIRE', jobs, ARGV[12])
end
if by_key then redis.call('SET', idempotency, id .. ' ' .. ARGV[8], 'EX', ARGV[9]) end
if by_body then
  redis.call('HSET', job, 'dedupe', ARGV[10])
  redis.call('SET', dedupe, id, 'EX', ARGV[11])
end
local place, data, estimate = redis.call('ZRANK', queue, id) + 1, ARGV[13], ''
if ARGV[17] ~= '' then
  estimate = seconds_told(math.max(0, place - ARGV[15]) * ARGV[16] + ARGV[17])
  redis.call('HSET', job, 'estimated_time', estimate)
  data = cjson.decode(data)
  data.estimatedTimeRemaining = estimate
  data = cjson.encode(data)
end
append(job, events, 'status', data)
if waiting == 0 then redis.call('PUBLISH', ARGV[5], 'wake') end
return { 'made', id, place, tostring(estimate) }
