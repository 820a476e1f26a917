-- Note that an archive whose time was over is gone from the storage.
-- KEYS: job, files, events, archives
-- ARGV: member of archives, object key, now, statuses it may start from,
--       seconds that the job is kept at the least
-- Returns 1 if the job has expired by this
local job, files, events, archives = unpack(KEYS)
redis.call('ZREM', archives, ARGV[1])
local known = redis.call('HMGET', job, 'status', 'archive')
if not known[1] or not allowed(ARGV[4], known[1]) then return 0 end
if cjson.decode(known[2])[1] ~= ARGV[2] then return 0 end

redis.call('HSET', job, 'status', 'expired', 'link', '', 'updated_at', ARGV[3])
for _, key in ipairs({ job, files, events }) do
  if redis.call('TTL', key) < tonumber(ARGV[5]) then redis.call('EXPIRE', key, ARGV[5]) end
end
return 1
