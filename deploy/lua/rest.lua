-- What the gateway does to a REST request before it is transcoded, and to the answer after it. The Lua filter in
-- deploy/envoy.yaml names this file; gateway/config.py puts its text there, behind json_body.lua, free_json.lua, body_members.lua and the tables of
-- gateway/lua_tables.py. Envoy's transcoder answers 404 to a wrong method, which hides that the path is right; it lets a query
-- parameter override the path, and ignores what it does not know in a body.

local function with_head_and_options(path, methods)
  -- A watch has no end, so nobody could say what its headers were at the end of a HEAD.
  if string.find(methods, "GET", 1, true) and not string.find(path, ":watch$") then
    methods = string.gsub(methods, "GET", "GET, HEAD")
  end
  return methods .. ", OPTIONS"
end

local function unescaped(value)
  return (string.gsub(value, "%%(%x%x)", function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

-- The query's parameters: {name, value}.
local function parameters_of(query)
  local found = {}
  for parameter in string.gmatch(string.sub(query, 2), "[^&]+") do
    local name, value = string.match(parameter, "^([^=]*)=?(.*)$")
    if name ~= "" then
      found[#found + 1] = {unescaped(name), unescaped((string.gsub(value, "+", " ")))}
    end
  end
  return found
end

-- The fields that the query gives, by name, and what is wrong with it. The transcoder takes the last of two, and a
-- parameter such as `value.string_value` for a part of a field; its errors name types of protobuf, and repeat the value.
-- `given`: what the path gives, by name.
local function read_query(parameters, message, given)
  local found = {}
  for _, parameter in ipairs(parameters) do
    local name, value = unpack(parameter)
    local whole = string.match(name, "^[^.]*")
    local field = message.fields[whole]
    if not is_utf8(name) then
      return nil, {reason = "MALFORMED_REQUEST", field = "query", description = "must be UTF-8"}
    elseif not field or field.ignored then
      return nil, {reason = "UNKNOWN_MEMBER", field = shown(name), description = "is unknown here; known are " .. message.known}
    elseif given[field.name] then
      return nil, {reason = "DUPLICATE_MEMBER", field = field.name, description = "must not be given: the path gives it"}
    elseif whole ~= name then
      return nil, {reason = "INVALID_INPUT", field = whole, description = "must be whole in a query: no part of it"}
    elseif found[field.name] and field.shape ~= "list" then
      return nil, {reason = "DUPLICATE_MEMBER", field = field.name, description = "must be given once"}
    end
    local wrong = wrong_outside(field, value)
    if wrong then
      return nil, wrong
    end
    found[field.name] = true
  end
  return found
end

local function quoted(value)
  return '"' .. string.gsub(value, '[%z\1-\31"\\\127]', function(found)
    return string.format("\\u%04x", string.byte(found))
  end) .. '"'
end

-- In the shape in which the server refuses a field (rpc/status.py).
local function refuse_request(handle, wrong)
  local field, description = quoted(wrong.field), quoted(wrong.description)
  -- It tells gateway/replies.py that the answer is JSON already.
  handle:headers():add("x-configsvc-violation", "1")
  handle:respond({[":status"] = "400"}, table.concat({
    '{"code":3,"message":', quoted(wrong.field .. ": " .. wrong.description), ',"details":[',
    '{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":', quoted(wrong.reason), ',"domain":"configsvc",',
    '"metadata":{}},',
    '{"@type":"type.googleapis.com/google.rpc.BadRequest","field_violations":[{"field":', field, ',"description":',
    description, ',"reason":""}]}]}'}))
end

-- Refuses a request that does not say what it means, and tells the server what it names (rpc/requests/field_mask.py). Every method
-- may have a body: the transcoder reads it also where the protos have none.
local function check_request(handle, message, given, parameters)
  local named, wrong = read_query(parameters, message, given)
  for name, value in pairs(given) do
    wrong = wrong or wrong_outside({name = name, kind = "string"}, value)
  end
  local members, length = {}, 0
  if not wrong then
    local body = handle:body()
    length = body and body:length() or 0
    if length > 0 then
      members, wrong = read_body(body:getBytes(0, length), message, given, named)
    end
  end
  if wrong then
    if wrong.is_too_large then
      -- gateway/replies.py says why.
      handle:respond({[":status"] = "413"}, "")
      return
    elseif wrong.failure then
      handle:logErr("a body could not be read: " .. wrong.failure)
    end
    refuse_request(handle, wrong)
    return
  end
  for name in pairs(named) do
    members[#members + 1] = name
  end
  handle:headers():add("x-configsvc-members", table.concat(members, ","))
  if length > 0 and #emptied > 0 then
    handle:headers():add("x-configsvc-emptied", table.concat(emptied, ","))
  end
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
  for _, route in ipairs(ROUTES) do
    local pattern, methods, names, messages = unpack(route)
    local captured = {string.match(path, pattern)}
    if captured[1] then
      local allowed = with_head_and_options(path, methods)
      local parameters = parameters_of(query)
      local given = {}
      for index, name in ipairs(names) do
        given[name] = unescaped(captured[index])
      end
      if method == "OPTIONS" then
        handle:respond({[":status"] = "204", ["allow"] = allowed}, "")
        return
      elseif not string.find(", " .. allowed .. ",", ", " .. method .. ",", 1, true) then
        handle:respond(
          {[":status"] = "405", ["allow"] = allowed},
          method .. " is not allowed at this path; allowed: " .. allowed)
        return
      end
      if method == "HEAD" then
        method = "GET"
        headers:replace(":method", method)
        handle:streamInfo():dynamicMetadata():set("configsvc", "without_body", "1")
      end
      check_request(handle, messages[method], given, parameters)
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
  -- What the server says with an answer lies in the message of its status (rpc/responses/response_metadata.py).
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
  if status ~= nil and (headers:get(":status") == "200" or status == "413") then
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
