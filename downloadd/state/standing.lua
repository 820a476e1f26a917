-- Say whose things are that lie in the storage or on a disk.
-- KEYS: installation, archives
-- ARGV: name of the installation, templates of the keys job and checkpoint,
--       then of each thing its job's id and its object key, or ''
-- Returns nil where this Redis is another installation's |
--         {'living'|'kept'|'orphan', ...}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil end

local function is_archive_of(encoded, key)
  return encoded and encoded ~= '' and cjson.decode(encoded)[1] == key
end

local function standing(id, key)
  local known = redis.call('HMGET', string.format(ARGV[2], id), 'status', 'archive', 'retry_until')
  local status, archive = known[1], known[2]
  if status == 'queued' or status == 'processing' then return 'living' end
  -- While its checkpoint is there, a failed job can be gone on with; by what lies on a
  -- disk, also one that has none.
  if status == 'failed' then
    if redis.call('EXISTS', string.format(ARGV[3], id)) == 1 then return 'living' end
    if key == '' and tonumber(known[3] or 0) > server_time() then return 'living' end
  end
  if status == 'completed' and is_archive_of(archive, key) then return 'kept' end
  -- The job may be forgotten before its archive's time is over.
  if redis.call('ZSCORE', KEYS[2], id .. ' ' .. key) then return 'kept' end
  return 'orphan'
end

local answer = {}
for place = 4, #ARGV, 2 do answer[#answer + 1] = standing(ARGV[place], ARGV[place + 1]) end
return answer
