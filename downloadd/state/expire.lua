-- Note that an archive whose time was over is gone from the storage.
-- KEYS: job, files, events, archives, deliveries
-- ARGV: member of archives, object key, now, statuses it may start from,
--       seconds that the job is kept at the least
-- Returns 1 if the job has expired by this
local job, files, events, archives, deliveries = unpack(KEYS)
redis.call('ZREM', archives, ARGV[1])
local known = redis.call('HMGET', job, 'status', 'archive')
if not known[1] or not allowed(ARGV[4], known[1]) then return 0 end
if cjson.decode(known[2])[1] ~= ARGV[2] then return 0 end

redis.call('HSET', job, 'status', 'expired', 'link', '', 'updated_at', ARGV[3])
keep({ job, files, events, deliveries }, ARGV[5])
return 1
