-- Checks a REST request before it is transcoded, and completes the answer after that. Envoy's transcoder answers 404 to a
-- wrong method, which hides that the path is right. It lets a query parameter override the path, and ignores unknown members
-- of a body.
--
-- The Lua filter in deploy/envoy.yaml names this file. gateway/config.py puts its text there, after the tables of
-- gateway/lua_tables.py, json_body.lua, free_json.lua and body_members.lua.

local function with_head_and_options(path, methods)
  -- A HEAD is answered when its GET has ended, and a watch does not end.
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

-- The parameters of the query: a list of {name, value}.
local function parameters_of(query)
  local parameters = {}
  for parameter in string.gmatch(string.sub(query, 2), "[^&]+") do
    local name, value = string.match(parameter, "^([^=]*)=?(.*)$")
    if name ~= "" then
      parameters[#parameters + 1] = {unescaped(name), unescaped((string.gsub(value, "+", " ")))}
    end
  end
  return parameters
end

-- The fields that the query gives, by name; or nil and what is wrong with it. The transcoder would take the last of two
-- parameters with one name, and accept `value.string_value` as a part of a field; its errors name protobuf types, and
-- repeat the value. `path_fields` are the fields that the path gives, by name.
local function read_query(parameters, message, path_fields)
  local query_fields = {}
  for _, parameter in ipairs(parameters) do
    local name, value = unpack(parameter)
    local field_name = string.match(name, "^[^.]*")
    local field = message.fields[field_name]
    if not is_utf8(name) then
      return nil, {reason = "MALFORMED_REQUEST", field = "query", description = "must be UTF-8"}
    elseif not field or field.ignored then
      return nil, {reason = "UNKNOWN_MEMBER", field = shortened(name), description = "is unknown here; known are " .. message.known}
    elseif path_fields[field.name] then
      return nil, {reason = "DUPLICATE_MEMBER", field = field.name, description = "must not be given: it is part of the path"}
    elseif field_name ~= name then
      return nil, {reason = "INVALID_INPUT", field = field_name, description = "must be a whole field in a query, not a part of one"}
    elseif query_fields[field.name] and field.shape ~= "list" then
      return nil, {reason = "DUPLICATE_MEMBER", field = field.name, description = "must be given once"}
    end
    local violation = text_error(field, value)
    if violation then
      return nil, violation
    end
    query_fields[field.name] = true
  end
  return query_fields
end

local function quoted(value)
  return '"' .. string.gsub(value, '[%z\1-\31"\\\127]', function(character)
    return string.format("\\u%04x", string.byte(character))
  end) .. '"'
end

-- Answers with the error that the server gives for an invalid field (rpc/status.py).
local function refuse_request(handle, violation)
  local field, description = quoted(violation.field), quoted(violation.description)
  -- gateway/replies.py: the answer is JSON already.
  handle:headers():add("x-configsvc-violation", "1")
  handle:respond({[":status"] = "400"}, table.concat({
    '{"code":3,"message":', quoted(violation.field .. ": " .. violation.description), ',"details":[',
    '{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":', quoted(violation.reason), ',"domain":"configsvc",',
    '"metadata":{}},',
    '{"@type":"type.googleapis.com/google.rpc.BadRequest","field_violations":[{"field":', field, ',"description":',
    description, ',"reason":""}]}]}'}))
end

-- Refuses an ambiguous or invalid request, and tells the server which fields it names (rpc/requests/field_mask.py). The
-- body of every method is checked: the transcoder reads one even if the protos have none.
local function check_request(handle, message, path_fields, parameters)
  local query_fields, violation = read_query(parameters, message, path_fields)
  for name, value in pairs(path_fields) do
    violation = violation or text_error({name = name, kind = "string"}, value)
  end
  local members, length = {}, 0
  if not violation then
    local body = handle:body()
    length = body and body:length() or 0
    if length > 0 then
      members, violation = read_body(body:getBytes(0, length), message, path_fields, query_fields)
    end
  end
  if violation then
    if violation.is_too_large then
      -- gateway/replies.py adds the message.
      handle:respond({[":status"] = "413"}, "")
      return
    elseif violation.failure then
      handle:logErr("a body could not be read: " .. violation.failure)
    end
    refuse_request(handle, violation)
    return
  end
  for name in pairs(query_fields) do
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
  -- The server answers such a call with the resource itself (`response_body`).
  headers:add("x-configsvc-rest", "1")
  handle:streamInfo():dynamicMetadata():set("configsvc", "rest", "1")
  local target = headers:get(":path")
  local path, query = string.match(target, "^([^?]*)(.*)$")
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
      local path_fields = {}
      for index, name in ipairs(names) do
        path_fields[name] = unescaped(captured[index])
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
      check_request(handle, messages[method], path_fields, parameters)
      return
    end
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local metadata = handle:streamInfo():dynamicMetadata():get("configsvc")
  if metadata == nil then
    -- The request is gRPC, or was refused by an earlier filter.
    return
  end
  local bodiless = metadata["without_body"] ~= nil
  -- The server sends the headers of an answer in the message of its status (rpc/responses/response_metadata.py).
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
    -- A body would stay on the connection, before the next answer. The header keeps its length, as for a GET (RFC 9110,
    -- 8.6).
    local body = handle:body()
    if body ~= nil then
      local length = body:length()
      body:setBytes("")
      handle:headers():replace("content-length", tostring(length))
    end
  end
end
