-- Make a job's last message due now, and its schedule new.
-- KEYS: job, files, deliveries, webhooks
-- ARGV: id, operation, statuses of a job that has ended, control channel
-- Returns 'ok' | 'none' | 'running' | 'busy'
local job, files, deliveries, webhooks = unpack(KEYS)
local id, operation = unpack(ARGV, 1, 2)
local messages = messages_of(deliveries)
local message = messages[#messages]
local known = redis.call('HMGET', deliveries, 'operation', 'token')
-- The answer to an earlier try was lost.
if known[1] == operation then return 'ok' end
local status = redis.call('HGET', job, 'status')
if not message or not status then return 'none' end
if not allowed(ARGV[3], status) then return 'running' end
local due = redis.call('ZSCORE', webhooks, id)
if known[2] and due and tonumber(due) > server_time() then return 'busy' end

redis.call('HDEL', deliveries, 'token')
redis.call('HSET', deliveries, 'operation', operation, message .. ':status', 'pending',
  message .. ':tries', 0)
redis.call('ZADD', webhooks, server_time(), id)
keep({ job, files, deliveries }, KEPT_FOR_NEWS)
redis.call('PUBLISH', ARGV[4], 'webhook')
return 'ok'
