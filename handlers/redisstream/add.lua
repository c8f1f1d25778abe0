-- Adds events to a stream, each once. An event that comes again is told from one that is
-- due by the rule of target.Recent.
--
-- KEYS[1] the stream
-- KEYS[2] a sorted set: the ids of the events of a partition that the stream got last, by offset
-- ARGV[1] how many ids are kept
-- ARGV[2] about how many entries the stream keeps; 0 for all
-- then for each event its offset, 1 where it comes late or else 0, its id, source, type,
-- subject, time and data
--
-- Returns 1 and how many events were added; or, where the log was set back, 0, the offset
-- of the first such event, and the last one. Then nothing was added.
local stream, sent = KEYS[1], KEYS[2]
local keep, most = tonumber(ARGV[1]), ARGV[2]
local width = 8

local top = redis.call('ZREVRANGE', sent, 0, 0, 'WITHSCORES')
local last = top[2] and tonumber(top[2]) or -1
local first = -1 -- the offset before which nothing is remembered
if redis.call('ZCARD', sent) >= keep then
  first = tonumber(redis.call('ZRANGE', sent, 0, 0, 'WITHSCORES')[2])
end

local due, seen = {}, {}
for i = 3, #ARGV, width do
  local offset, late, id = tonumber(ARGV[i]), ARGV[i + 1] == '1', ARGV[i + 2]
  if not seen[id] and not redis.call('ZSCORE', sent, id) then
    if not late and offset <= last then
      if offset < first or redis.call('ZCOUNT', sent, offset, offset) > 0 then
        return {0, offset, last}
      end
    end
    seen[id] = true
    due[#due + 1] = i
  end
end

for _, i in ipairs(due) do
  local entry = {'XADD', stream}
  if most ~= '0' then
    entry[3], entry[4], entry[5] = 'MAXLEN', '~', most
  end
  entry[#entry + 1] = '*'
  for n, name in ipairs({'id', 'source', 'type', 'subject', 'time', 'data'}) do
    entry[#entry + 1] = name
    entry[#entry + 1] = ARGV[i + 1 + n]
  end
  redis.call(unpack(entry))
  local offset = tonumber(ARGV[i])
  if ARGV[i + 1] == '1' then
    offset = last
  end
  redis.call('ZADD', sent, offset, ARGV[i + 2])
  last = math.max(last, offset)
end
if #due > 0 then
  redis.call('ZREMRANGEBYRANK', sent, 0, -keep - 1)
end
return {1, #due}
