-- Note how a try to deliver went, and what is to become of the message.
-- KEYS: job, files, deliveries, webhooks
-- ARGV: id, message, token, status, seconds to the next try, the try as JSON or '' where
--       there was none, control channel
local job, files, deliveries, webhooks = unpack(KEYS)
local id, message, token, status, wait, try = unpack(ARGV, 1, 6)
local TRIES_KEPT = 50

-- A try that is noted already was noted by this very call: its answer was lost.
local function note()
  local log = redis.call('HGET', deliveries, message .. ':log') or ''
  local tries = {}
  for line in string.gmatch(log, '[^\n]+') do tries[#tries + 1] = line end
  if tries[#tries] == try then return end
  tries[#tries + 1] = try
  if #tries > TRIES_KEPT then table.remove(tries, 1) end
  redis.call('HSET', deliveries, message .. ':log', table.concat(tries, '\n'))
end

if redis.call('EXISTS', deliveries) == 0 then return redis.call('ZREM', webhooks, id) end
if try ~= '' and redis.call('HEXISTS', deliveries, message .. ':type') == 1 then note() end
if redis.call('HGET', deliveries, 'token') ~= token then return 0 end

redis.call('HDEL', deliveries, 'token')
redis.call('HSET', deliveries, message .. ':status', status)
if status ~= 'pending' then return redis.call('ZREM', webhooks, id) end
if try ~= '' then redis.call('HINCRBY', deliveries, message .. ':tries', 1) end
redis.call('ZADD', webhooks, server_time() + wait, id)
keep({ job, files, deliveries }, math.ceil(wait) + KEPT_FOR_NEWS)
if tonumber(wait) == 0 then redis.call('PUBLISH', ARGV[7], 'webhook') end
return 1
