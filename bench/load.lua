-- wrk's side of a run: arguments are the operation, how many names there are, the
-- key, for how many milliseconds a connection waits before each request, how many requests
-- there are at most (0: no such bound), and how many items a batch has (0: no batch).
-- Every request, and every item, takes a name at random. The request text is put together by hand, so that the
-- load generator takes as little as can be of the cores that it shares with the service.

local total, before, middle, after, pause, most, batch
local asked = 0
local FOR_EVER = 24 * 3600 * 1000

function init(args)
  local operation, key = args[1], args[3]
  total, pause, most = tonumber(args[2]), tonumber(args[4]), tonumber(args[5])
  batch = tonumber(args[6])
  math.randomseed(os.time())
  local rest = ""
  if operation == "upsert" then
    rest = ',"username":"deploy","password":"correct horse battery staple",'
      .. '"domain":"example.com"'
  end
  local body_size = #('{"host":"host-0000000.example.com","purpose":"ssh"' .. rest .. "}")
  if batch > 0 then
    body_size = #'{"items":[]}' + batch * body_size + batch - 1
    operation = operation .. "-batch"
  end
  before = "POST /internal/secrets/credential-" .. operation .. " HTTP/1.1\r\n"
    .. "Host: 127.0.0.1\r\nContent-Type: application/json\r\nX-Service-Name: bench\r\n"
    .. "X-Internal-Key: " .. key .. "\r\nContent-Length: " .. body_size .. "\r\n\r\n"
  middle = '{"host":"host-'
  after = '.example.com","purpose":"ssh"' .. rest .. "}"
end

local function item()
  return middle .. string.format("%07d", math.random(0, total - 1)) .. after
end

function request()
  if batch == 0 then
    return before .. item()
  end
  local items = {}
  for number = 1, batch do
    items[number] = item()
  end
  return before .. '{"items":[' .. table.concat(items, ",") .. "]}"
end

-- wrk asks for a delay once before each request.
function delay()
  asked = asked + 1
  if most > 0 and asked > most then
    return FOR_EVER
  end
  return pause
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"not_ok":%d,"broken":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
