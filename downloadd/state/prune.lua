-- Drop members of a sorted set whose jobs are gone, or in another status than may be.
-- KEYS: set
-- ARGV: template of a job's key, statuses that may be or '' for any, ids...
-- Returns how many
local dropped = 0
for place = 3, #ARGV do
  local status = redis.call('HGET', string.format(ARGV[1], ARGV[place]), 'status')
  if not status or (ARGV[2] ~= '' and not allowed(ARGV[2], status)) then
    dropped = dropped + redis.call('ZREM', KEYS[1], ARGV[place])
  end
end
return dropped
