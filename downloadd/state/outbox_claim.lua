-- Take deliveries that are due, under a lease.
-- KEYS: webhooks, what this process claimed last
-- ARGV: limit, token, lease in seconds, most of one host, templates of the keys job and
--       deliveries, then of each host that is called already its name and how often
-- Returns {{{id, message, type, url, host, tries}, ...}, jobs that are gone,
--          seconds to the next or '', 1 where there may be more}
local webhooks, last_claim = unpack(KEYS)
local limit, token, lease, per_host = unpack(ARGV, 1, 4)
limit, per_host = tonumber(limit), tonumber(per_host)
-- Those looked at, and the seconds for which others behind them come first.
local WINDOW, ASIDE = 500, 1
local clock = server_time()
local ids, taken, gone, aside, busy = {}, {}, {}, {}, {}
for place = 7, #ARGV, 2 do busy[ARGV[place]] = tonumber(ARGV[place + 1]) end

local function name(index, id) return string.format(ARGV[index], id) end

-- The job's URL and its last message; nothing where either is gone.
local function known(id)
  local url = redis.call('HGET', name(5, id), 'callback_url')
  local messages = messages_of(name(6, id))
  return url, messages[#messages]
end

local function host_of(url)
  return (string.gsub(string.match(url, '^%a+://([^/?#]*)') or '', '^.*@', ''))
end

local function answer(id, url, message)
  local about = redis.call('HMGET', name(6, id), message .. ':type', message .. ':tries')
  ids[#ids + 1] = id
  taken[#taken + 1] = { id, message, about[1], url, host_of(url), about[2] }
end

-- The answer to this very claim was lost: give it again.
local again = redis.call('GET', last_claim)
if again and string.match(again, '^%S+') == token then
  for id in string.gmatch(string.match(again, '^%S+(.*)$'), '%S+') do
    local url, message = known(id)
    if message and redis.call('HGET', name(6, id), 'token') == token then answer(id, url, message) end
  end
  return { taken, gone, '', 1 }
end

local due = redis.call('ZRANGEBYSCORE', webhooks, '-inf', clock, 'LIMIT', 0, WINDOW)
for _, id in ipairs(due) do
  if #taken == limit then break end
  local url, message = known(id)
  if not url or not message then
    redis.call('ZREM', webhooks, id)
    gone[#gone + 1] = id
  else
    local host = host_of(url)
    if (busy[host] or 0) >= per_host then
      aside[#aside + 1] = id
    else
      busy[host] = (busy[host] or 0) + 1
      redis.call('HSET', name(6, id), 'token', token)
      redis.call('ZADD', webhooks, clock + lease, id)
      answer(id, url, message)
    end
  end
end

-- Many for hosts that are busy are not to hide what lies behind them.
local more = 0
if #due == WINDOW and #taken < limit then
  more = 1
  for _, id in ipairs(aside) do
    redis.call('HDEL', name(6, id), 'token')
    redis.call('ZADD', webhooks, clock + ASIDE, id)
  end
end
if #ids > 0 then
  redis.call('SET', last_claim, token .. ' ' .. table.concat(ids, ' '), 'EX', 60)
end
local later = redis.call('ZRANGEBYSCORE', webhooks, '(' .. string.format('%.6f', clock), '+inf',
  'WITHSCORES', 'LIMIT', 0, 1)
return { taken, gone, later[2] and tostring(later[2] - clock) or '', more }
