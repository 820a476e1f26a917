-- Say what was measured, and how busy all processes are.
-- KEYS: pace, hosts, processes, active, queue
-- ARGV: seconds for which a process counts, hosts...
-- Returns {files, jobs, tails, at, slots, active, waiting, {host's sums, ...}}
local pace, hosts, processes, active, queue = unpack(KEYS)
local clock = server_time()
local slots = 0
local all = redis.call('HVALS', processes)
for _, value in ipairs(all) do
  local count, seen = string.match(value, '^(%S+) (%S+)')
  if tonumber(seen) >= clock - ARGV[1] then slots = slots + tonumber(count) end
end
local known = redis.call('HMGET', pace, 'files', 'jobs', 'tails', 'at')
local sums = {}
for place = 2, #ARGV do sums[#sums + 1] = redis.call('HGET', hosts, ARGV[place]) end
return { known[1], known[2], known[3], known[4], slots, redis.call('ZCARD', active),
  redis.call('ZCARD', queue), sums }
