-- A request of a client: see httpapi/ratelimit/bucket.go, which reckons the same. All
-- numbers are whole and below 2^53, which is as far as those of Lua are exact.
-- KEYS[1]: the bucket, "LEVEL AT". ARGV: requests a minute; a level that is known from
-- elsewhere; 1 where that counts although there is a bucket.
local cost = 60000000
local n, carried, force = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == "1"
local capacity = n * cost
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local level, since, known, back = 0, now, false, false
local stored = redis.call("GET", KEYS[1])
if stored then
  local before, at = string.match(stored, "^(%d+) (%d+)$")
  if before then
    known, at = true, tonumber(at)
    if at > now and at - now < cost then
      since = at
    end
    back = at > since
    local elapsed = math.min(math.max(now - at, 0), cost)
    level = math.max(0, math.min(tonumber(before), capacity) - elapsed * n)
  end
end
if force or not known then
  level = math.max(level, math.min(carried, capacity))
end
local allowed = 0
if level + cost <= capacity then
  allowed = 1
  level = level + cost
end
if allowed == 1 or not known or force or back then
  redis.call("SET", KEYS[1], string.format("%.0f %.0f", level, since), "PX", 60001)
end
return {allowed, level, now}
