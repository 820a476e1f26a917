-- Make due now what dead processes were sending.
-- KEYS: webhooks
-- ARGV: template of a deliveries key, owners...
-- Returns how many messages
local webhooks, found, clock = KEYS[1], 0, server_time()
local dead = {}
for place = 2, #ARGV do dead[ARGV[place]] = true end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', webhooks, clock, '+inf')) do
  local deliveries = string.format(ARGV[1], id)
  local token = redis.call('HGET', deliveries, 'token')
  if token and dead[string.match(token, '^(.*):webhook:')] then
    redis.call('HDEL', deliveries, 'token')
    redis.call('ZADD', webhooks, clock, id)
    found = found + 1
  end
end
return found
