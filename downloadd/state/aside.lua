-- Put a job that is worked on into the queue, behind the one that it makes room for.
-- KEYS: job, events, active, queue, sequence, turns
-- ARGV: id, token, control channel, id of the other job, now
-- Returns 1, or 0 where the lease is lost
local job, events, active, queue, sequence, turns = unpack(KEYS)
local id = ARGV[1]
local known = redis.call('HMGET', job, 'status', 'token', 'rank', 'user')
if known[1] ~= 'processing' or known[2] ~= ARGV[2] then return 0 end
local rank, user = tonumber(known[3]), known[4]
redis.call('HSET', job, 'stage', '', 'updated_at', ARGV[5])
redis.call('HDEL', job, 'token', 'flight', 'work_left')
redis.call('ZREM', active, id)
-- A user who has nothing waiting would begin with the turn that is on, and have the
-- place back at once.
local on, last = turn_fields(rank, user)
local turn = tonumber(redis.call('HGET', turns, on) or 0)
local score = tonumber(redis.call('ZSCORE', queue, ARGV[4]) or -1)
if math.floor(score / RANK) == rank then
  turn = math.max(turn, math.floor(score % RANK / TURN))
end
if tonumber(redis.call('HGET', turns, last) or -1) < turn then
  redis.call('HSET', turns, last, turn)
end
enqueue(queue, sequence, turns, rank, user, id)
append(job, events, 'progress', last_event(job, 'processing', true))
redis.call('PUBLISH', ARGV[3], 'wake')
return 1
