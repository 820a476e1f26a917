-- Let anybody claim the job at once.
-- KEYS: job, active
-- ARGV: id, token, control channel
local known = redis.call('HMGET', KEYS[1], 'status', 'token')
if known[1] ~= 'processing' or known[2] ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], 'token', 'flight')
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('PUBLISH', ARGV[3], 'wake')
return 1
