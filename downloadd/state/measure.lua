-- Add what a process has measured since the last time.
-- KEYS: pace, hosts, recent hosts, processes
-- ARGV: process, operation, jobs that it works on at once or 0 when it goes away, now,
--       decay a file, decay a job, hosts kept, seconds for which hosts are kept,
--       seconds for which a process counts,
--       jobs, their seconds, jobs completed, their seconds after the last file,
--       then of each host: name, files, size, received, seconds, latency
local pace, hosts, recent, processes = unpack(KEYS)
local process, operation, slots, now = unpack(ARGV, 1, 4)
local clock = server_time()

local function numbers(text)
  local found = {}
  for word in string.gmatch(text or '', '%S+') do
    local number = tonumber(word)
    -- What makes no sense must not stay for ever.
    found[#found + 1] = number and number >= 0 and number < 1e30 and number or 0
  end
  return found
end

-- What was there, counting for less the more has come, and what has come.
local function blend(text, new, decay, count)
  local old, sums = numbers(text), {}
  local kept = tonumber(decay) ^ count
  for place = 1, #new do
    sums[place] = string.format('%.9g', (old[place] or 0) * kept + new[place])
  end
  return table.concat(sums, ' ')
end

-- The answer to an earlier try was lost.
local known = redis.call('HGET', processes, process)
if known and string.match(known, '%S+$') == operation then return end

redis.call('HSET', processes, process, slots .. ' ' .. clock .. ' ' .. operation)
local all = redis.call('HGETALL', processes)
for place = 1, #all, 2 do
  if numbers(all[place + 1])[2] < clock - ARGV[9] then redis.call('HDEL', processes, all[place]) end
end

local jobs, completed = tonumber(ARGV[10]), tonumber(ARGV[12])
local overall = { 0, 0, 0, 0, 0 }
for place = 14, #ARGV, 6 do
  local name, new = ARGV[place], {}
  for part = 1, 5 do
    new[part] = tonumber(ARGV[place + part])
    overall[part] = overall[part] + new[part]
  end
  redis.call('HSET', hosts, name, blend(redis.call('HGET', hosts, name), new, ARGV[5], new[1]))
  redis.call('ZADD', recent, clock, name)
end

local function add(field, new, decay)
  if new[1] == 0 then return end
  local text = redis.call('HGET', pace, field)
  redis.call('HSET', pace, field, blend(text, new, decay, new[1]), 'at', now)
end
add('files', overall, ARGV[5])
add('jobs', { jobs, tonumber(ARGV[11]) }, ARGV[6])
add('tails', { completed, tonumber(ARGV[13]) }, ARGV[6])

local function forget(names)
  for _, name in ipairs(names) do
    redis.call('HDEL', hosts, name)
    redis.call('ZREM', recent, name)
  end
end
forget(redis.call('ZRANGEBYSCORE', recent, '-inf', clock - ARGV[8]))
local beyond = redis.call('ZCARD', recent) - ARGV[7]
if beyond > 0 then forget(redis.call('ZRANGE', recent, 0, beyond - 1)) end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[8]) end
