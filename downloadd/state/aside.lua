-- Put a job that is worked on into the queue, behind its user's others.
-- KEYS: job, active, queue, sequence, turns
-- ARGV: id, token, control channel
local job, active, queue, sequence, turns = unpack(KEYS)
local known = redis.call('HMGET', job, 'status', 'token', 'rank', 'user')
if known[1] ~= 'processing' or known[2] ~= ARGV[2] then return 0 end
redis.call('HDEL', job, 'token', 'flight')
redis.call('ZREM', active, ARGV[1])
enqueue(queue, sequence, turns, tonumber(known[3]), known[4], ARGV[1])
redis.call('PUBLISH', ARGV[3], 'wake')
return 1
