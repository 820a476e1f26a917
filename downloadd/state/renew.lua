-- KEYS: active, jobs...
-- ARGV: lease in seconds, then id and token of each job
-- Returns the places (from 1) of the leases that are lost
local deadline = server_time() + ARGV[1]
local lost = {}
for place = 1, #KEYS - 1 do
  local known = redis.call('HMGET', KEYS[place + 1], 'status', 'token')
  if known[1] == 'processing' and known[2] == ARGV[2 * place + 1] then
    redis.call('ZADD', KEYS[1], deadline, ARGV[2 * place])
  else
    lost[#lost + 1] = place
  end
end
return lost
