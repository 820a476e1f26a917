-- Let the leases of dead processes lapse now. Their tokens stay, so that the
-- claim counts the death.
-- KEYS: active
-- ARGV: template of a job's key, control channel, owners...
-- Returns how many there were
local active, found = KEYS[1], 0
local dead = {}
for place = 3, #ARGV do dead[ARGV[place]] = true end
for _, id in ipairs(redis.call('ZRANGE', active, 0, -1)) do
  local token = redis.call('HGET', string.format(ARGV[1], id), 'token')
  if token and dead[string.match(token, '^(.*):')] then
    redis.call('ZADD', active, 0, id)
    found = found + 1
  end
end
if found > 0 then redis.call('PUBLISH', ARGV[2], 'wake') end
return found
