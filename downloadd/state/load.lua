-- KEYS: job, queue, files
-- ARGV: id, '1' with files
-- Returns nil | {snapshot} | {snapshot, spec, flight, files}
local job, queue, files = unpack(KEYS)
local values = snapshot(job, queue, ARGV[1])
if not values[1] then return nil end
if ARGV[2] ~= '1' then return { values } end
local bulk = redis.call('HMGET', job, 'spec', 'flight')
return { values, bulk[1], bulk[2], redis.call('HGETALL', files) }
