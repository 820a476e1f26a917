-- Tell whoever listens of an event of a job that is not there any more. Nothing is kept.
-- KEYS: events
-- ARGV: type, data
local now = redis.call('TIME')
local id = string.format('%.0f-0', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('PUBLISH', KEYS[1], id .. ' ' .. ARGV[1] .. ' ' .. ARGV[2])
