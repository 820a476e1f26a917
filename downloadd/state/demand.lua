-- Who waits at the head of the queue, and whose jobs are under way in all processes.
-- KEYS: queue, active
-- ARGV: how many of the queue, template of a job's key
-- Returns {{{id, user, rank, created_at}, ...}, {user, ...}}
local function job(id) return string.format(ARGV[2], id) end

local waiting, users = {}, {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)) do
  local known = redis.call('HMGET', job(id), 'user', 'rank', 'created_at')
  -- What cannot be read here is a claim's to judge.
  if known[1] and tonumber(known[2] or '') and tonumber(known[3] or '') then
    waiting[#waiting + 1] = { id, known[1], known[2], known[3] }
  end
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local user = redis.call('HGET', job(id), 'user')
  if user then users[#users + 1] = user end
end
return { waiting, users }
