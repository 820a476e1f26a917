-- Write a running job's state; at its end, give up the lease.
-- KEYS: job, files, events, checkpoint, headers, active, archives, deliveries, webhooks
-- ARGV: id, token, operation, new status or '', statuses it may start from,
--       event type or '', event data, '1' with checkpoint, checkpoint,
--       seconds to keep the job, seconds to keep checkpoint and headers,
--       template of a dedupe key or '', member of archives or '', when its time is over,
--       control channel, number of job fields, fields..., files...
-- Returns 'ok' | 'cancelled' | 'lost' | the status that forbids it
local job, files, events, checkpoint, headers, active, archives = unpack(KEYS, 1, 7)
local id, token, operation, status, sources = unpack(ARGV, 1, 5)
local known = redis.call('HMGET', job, 'status', 'token', 'operation')

-- The answer to an earlier try was lost.
if known[3] == operation then return 'ok' end
if known[1] == 'cancelled' then return 'cancelled' end
if not known[1] or known[2] ~= token then return 'lost' end
if not allowed(sources, known[1]) then return known[1] end

local last = 16 + tonumber(ARGV[16])
redis.call('HSET', job, 'operation', operation, 'event', ARGV[7], unpack(ARGV, 17, last))
-- In pieces: Lua's stack holds some 8,000 values.
for first = last + 1, #ARGV, 2000 do
  redis.call('HSET', files, unpack(ARGV, first, math.min(first + 1999, #ARGV)))
end
if ARGV[8] == '1' then redis.call('SET', checkpoint, ARGV[9]) end
if ARGV[6] ~= '' then append(job, events, ARGV[6], ARGV[7]) end
if status == '' then return 'ok' end

redis.call('HSET', job, 'status', status)
redis.call('HDEL', job, 'token', 'flight')
redis.call('ZREM', active, id)
if ARGV[13] ~= '' then redis.call('ZADD', archives, ARGV[14], ARGV[13]) end
for _, key in ipairs({ job, files, events }) do redis.call('EXPIRE', key, ARGV[10]) end
if status == 'failed' then
  redis.call('HSET', job, 'retry_until', server_time() + tonumber(ARGV[11]))
end
for _, key in ipairs({ checkpoint, headers }) do redis.call('EXPIRE', key, ARGV[11]) end
if ARGV[12] ~= '' then free_body(job, ARGV[12], id) end
send_news(job, files, KEYS[8], KEYS[9], id, status, ARGV[15])
return 'ok'
