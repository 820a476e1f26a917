-- Queue an ended job once more.
-- KEYS: job, files, events, checkpoint, headers, queue, sequence, deliveries, webhooks, turns
-- ARGV: id, now, operation, statuses it may start from, queue limit, control channel,
--       template of a dedupe key, seconds for which it counts, seconds of work left or '',
--       span of the request or ''
-- Returns nil | status that forbids it | 'full' | 'forgotten' | {snapshot}
local job, files, events, checkpoint, headers, queue, sequence = unpack(KEYS, 1, 7)
local id, now, operation, sources = unpack(ARGV, 1, 4)
local known = redis.call('HMGET', job, 'status', 'operation', 'headers', 'rank', 'dedupe')
if not known[1] then return nil end
-- The answer to an earlier try was lost.
if known[2] == operation then return { snapshot(job, queue, id) } end
if not allowed(sources, known[1]) then return known[1] end
if known[3] and redis.call('EXISTS', headers) == 0 then return 'forgotten' end
local waiting = redis.call('ZCARD', queue)
if waiting >= tonumber(ARGV[5]) then return 'full' end

-- What failed is tried again; in an archive whose end is laid out already, all is settled.
local function status_of(value)
  return cjson.decode(value).status
end
local kept = redis.call('GET', checkpoint)
local sealed = kept and string.find(kept, '"sealed":true', 1, true)
local completed, failed = 0, 0
if known[1] == 'cancelled' then redis.call('DEL', files) end
local ended = redis.call('HGETALL', files)
for place = 1, #ended, 2 do
  if status_of(ended[place + 1]) ~= 'failed' then
    completed = completed + 1
  elseif sealed then
    failed = failed + 1
  else
    redis.call('HDEL', files, ended[place])
  end
end
local total = tonumber(redis.call('HGET', job, 'total_files'))
local progress = total > 0 and math.floor((completed + failed) / total * 100 + 0.5) or 0
progress = math.min(99, progress)

redis.call('HSET', job, 'status', 'queued', 'operation', operation, 'stage', '',
  'progress', progress, 'files_completed', completed, 'files_failed', failed,
  'partial', failed > 0 and '1' or '', 'updated_at', now, 'work_left', ARGV[9])
if ARGV[10] ~= '' then redis.call('HSET', job, 'run_traceparent', ARGV[10]) end
if completed == 0 then redis.call('HSET', job, 'bytes_fetched', 0) end
redis.call('HDEL', job, 'error', 'error_code', 'completed_at', 'token', 'flight',
  'deaths', 'deaths_at', 'put_backs', 'put_backs_at')
for _, key in ipairs({ job, files, events, checkpoint, headers }) do redis.call('PERSIST', key) end
withdraw_news(KEYS[8], KEYS[9], id)
enqueue(queue, sequence, KEYS[10], tonumber(known[4]), redis.call('HGET', job, 'user'), id)
if known[5] then
  redis.call('SET', string.format(ARGV[7], known[5]), id, 'NX', 'EX', ARGV[8])
end

local data = cjson.decode(last_event(job, 'queued', true))
data.progress, data.filesCompleted, data.filesFailed = progress, completed, failed
data.error, data.errorCode, data.partial = nil, nil, nil
append(job, events, 'status', cjson.encode(data))
if waiting == 0 then redis.call('PUBLISH', ARGV[6], 'wake') end
return { snapshot(job, queue, id) }
