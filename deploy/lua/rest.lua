-- What the gateway does to a REST request before it is transcoded, and to the answer after it. The Lua filter in
-- deploy/envoy.yaml names this file; gateway/config.py puts its text there.

-- The methods of each path, and the field that the path itself gives; the first pattern that matches counts. Envoy's
-- transcoder answers 404 to a wrong method, which hides that the path is right, and lets a query parameter override the
-- path.
local METHODS = {
  {"^/api/v1/config$", "GET, POST"},
  {"^/api/v1/config/bulk$", "POST"},
  {"^/api/v1/config:batchWrite$", "POST"},
  {"^/api/v1/config/.+:rollback$", "POST", "key"},
  {"^/api/v1/config:effective$", "GET"},
  {"^/api/v1/config:watch$", "GET"},
  {"^/api/v1/config/.+:diff$", "GET", "key"},
  {"^/api/v1/config/.+:effective$", "GET", "key"},
  {"^/api/v1/config/.+/history$", "GET", "key"},
  {"^/api/v1/config/.+$", "GET, PUT, DELETE", "key"},
  {"^/api/v1/feature%-flags$", "GET, POST"},
  {"^/api/v1/feature%-flags:watch$", "GET"},
  {"^/api/v1/feature%-flags/evaluate$", "POST"},
  {"^/api/v1/feature%-flags/evaluate/batch$", "POST"},
  {"^/api/v1/feature%-flags/[^/]+/history$", "GET", "name"},
  {"^/api/v1/feature%-flags/[^/]+:rollback$", "POST", "name"},
  {"^/api/v1/feature%-flags/[^/]+:diff$", "GET", "name"},
  {"^/api/v1/feature%-flags/[^/]+$", "GET, PUT, DELETE", "name"},
  {"^/api/v1/registry/register$", "POST"},
  {"^/api/v1/registry/deregister$", "POST"},
  {"^/api/v1/registry/heartbeat$", "POST"},
  {"^/api/v1/registry/services$", "GET"},
  {"^/api/v1/registry/services/[^/]+/health$", "POST", "service_name"},
  {"^/api/v1/registry/services/[^/]+/url$", "GET", "service_name"},
  {"^/api/v1/registry/services/[^/]+$", "GET", "service_name"},
  {"^/api/v1/registry/discover/[^/]+$", "GET", "service_name"},
  {"^/api/v1/changes$", "GET"},
  {"^/health$", "GET"}, {"^/ready$", "GET"}, {"^/live$", "GET"},
}

local function with_head_and_options(path, methods)
  -- A watch has no end, so nobody could say what its headers were at the end of a HEAD.
  if string.find(methods, "GET", 1, true) and not string.find(path, ":watch$") then
    methods = string.gsub(methods, "GET", "GET, HEAD")
  end
  return methods .. ", OPTIONS"
end

local function has_parameter(query, name)
  for found in string.gmatch(query, "[?&]([^=&]*)") do
    local plain = string.gsub(found, "%%(%x%x)", function(hex)
      return string.char(tonumber(hex, 16))
    end)
    if plain == name then
      return true
    end
  end
  return false
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get("x-configsvc-native") then
    return
  end
  -- The server then answers with the resource itself (`response_body`).
  headers:add("x-configsvc-rest", "1")
  handle:streamInfo():dynamicMetadata():set("configsvc", "rest", "1")
  local whole = headers:get(":path")
  local path, query = string.match(whole, "^([^?]*)(.*)$")
  if #path > 1 and string.sub(path, -1) == "/" then
    path = string.sub(path, 1, -2)
    headers:replace(":path", path .. query)
  end
  local method = headers:get(":method")
  for _, known in ipairs(METHODS) do
    if string.match(path, known[1]) then
      local allowed = with_head_and_options(path, known[2])
      if method == "OPTIONS" then
        handle:respond({[":status"] = "204", ["allow"] = allowed}, "")
      elseif not string.find(", " .. allowed .. ",", ", " .. method .. ",", 1, true) then
        handle:respond(
          {[":status"] = "405", ["allow"] = allowed},
          method .. " is not allowed at this path; allowed: " .. allowed)
      elseif known[3] and has_parameter(query, known[3]) then
        handle:respond(
          {[":status"] = "400"},
          "The path itself gives " .. known[3] .. ": a query parameter of this name is not allowed.")
      elseif method == "HEAD" then
        headers:replace(":method", "GET")
        handle:streamInfo():dynamicMetadata():set("configsvc", "without_body", "1")
      end
      return
    end
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local noted = handle:streamInfo():dynamicMetadata():get("configsvc")
  if noted == nil then
    -- gRPC, or refused before it came here.
    return
  end
  local bodiless = noted["without_body"] ~= nil
  -- What the server says with an answer lies in the message of its status (rpc/call.py).
  if headers:get("grpc-status") == "0" then
    for name, value in string.gmatch(headers:get("grpc-message") or "", "(%S-)=(%S+)") do
      headers:replace(name, (string.gsub(value, "%^", "%%")))
    end
  end
  for _, name in ipairs({"grpc-status", "grpc-message", "grpc-accept-encoding"}) do
    headers:remove(name)
  end
  local status = headers:get("x-http-status")
  headers:remove("x-http-status")
  if status ~= nil and headers:get(":status") == "200" then
    headers:replace(":status", status)
    bodiless = bodiless or status == "304" or status == "204"
  end
  if bodiless then
    -- A body here would stay on the connection, before the next answer. Its length is said all
    -- the same, as for a GET (RFC 9110, 8.6).
    local body = handle:body()
    if body ~= nil then
      local length = body:length()
      body:setBytes("")
      handle:headers():replace("content-length", tostring(length))
    end
  end
end
