-- Who waits at the head of the queue.
-- KEYS: queue
-- ARGV: how many, template of a job's key
-- Returns {{user, rank, created_at}, ...}
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)) do
  local known = redis.call('HMGET', string.format(ARGV[2], id), 'user', 'rank', 'created_at')
  if known[1] then found[#found + 1] = known end
end
return found
