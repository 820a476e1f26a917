-- KEYS: deliveries, webhooks
-- ARGV: id
-- Returns {fields of deliveries..., flat}, when the next try is due or ''
local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
local under_way = redis.call('HEXISTS', KEYS[1], 'token') == 1 and due and tonumber(due) > server_time()
return { redis.call('HGETALL', KEYS[1]), due and not under_way and due or '' }
