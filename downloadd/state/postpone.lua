-- Give a job up for a while: it may be claimed again after the next of the pauses.
-- KEYS: job, active
-- ARGV: id, token, operation, pauses in seconds...
-- Returns how often it has been put back | 0 when the pauses are used up, and
-- the lease is held still | 'cancelled' | 'lost'
local job, active = unpack(KEYS)
local id, token, operation = unpack(ARGV, 1, 3)
local known = redis.call('HMGET', job, 'status', 'token', 'operation')

-- The answer to an earlier try was lost.
if known[3] == operation then return tonumber(redis.call('HGET', job, 'put_backs')) end
if known[1] == 'cancelled' then return 'cancelled' end
if known[1] ~= 'processing' or known[2] ~= token then return 'lost' end

local count = count_since(job, 'put_backs')
local pause = ARGV[3 + count]
if not pause then return 0 end
redis.call('HSET', job, 'operation', operation)
redis.call('HDEL', job, 'token', 'flight')
redis.call('ZADD', active, server_time() + pause, id)
return count
