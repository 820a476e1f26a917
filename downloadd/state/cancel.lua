-- End a job that is waiting or under way.
-- KEYS: job, files, events, checkpoint, headers, queue, active, deliveries, webhooks, turns
-- ARGV: id, now, operation, statuses it may start from, seconds to keep the job,
--       control channel, template of a dedupe key
-- Returns nil | status that forbids it | {snapshot, checkpoint}
local job, files, events, checkpoint, headers, queue, active = unpack(KEYS, 1, 7)
local id, now, operation, sources = unpack(ARGV, 1, 4)
local known = redis.call('HMGET', job, 'status', 'operation')
if not known[1] then return nil end
-- The answer to an earlier try was lost.
if known[2] == operation then return { snapshot(job, queue, id) } end
if not allowed(sources, known[1]) then return known[1] end
local kept = redis.call('GET', checkpoint)

redis.call('HSET', job, 'status', 'cancelled', 'operation', operation, 'stage', '',
  'updated_at', now, 'completed_at', now)
redis.call('HDEL', job, 'token', 'flight')
redis.call('DEL', checkpoint, headers)
local score = redis.call('ZSCORE', queue, id)
if score then
  local place = redis.call('HMGET', job, 'rank', 'user')
  redis.call('ZREM', queue, id)
  left_queue(queue, KEYS[10], tonumber(place[1]), place[2], tonumber(score))
end
redis.call('ZREM', active, id)
append(job, events, 'cancelled', last_event(job, 'cancelled', true))
free_body(job, ARGV[7], id)
for _, key in ipairs({ job, files, events }) do redis.call('EXPIRE', key, ARGV[5]) end
redis.call('PUBLISH', ARGV[6], 'cancel ' .. id)
send_news(job, files, KEYS[8], KEYS[9], id, 'cancelled', ARGV[6])
return { snapshot(job, queue, id), kept }
