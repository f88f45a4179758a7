-- Checks a REST request before it is transcoded, and completes the answer after that. Envoy's transcoder answers 404 to a
-- wrong method, which hides that the path is right. It lets a query parameter override the path, and ignores unknown members
-- of a body.
--
-- The Lua filter in deploy/envoy.yaml names this file. gateway/config.py puts its text there, after admission.lua, the tables
-- of gateway/lua_tables.py, json_body.lua, free_json.lua and body_members.lua.

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

-- The fields that the queries of GET requests name, by target. Clients read the same targets again and again, and the check
-- of a request without a body depends on nothing else. Only requests that passed are kept. When the table is full, it is
-- emptied.
local MOST_TARGETS, LONGEST_TARGET = 1000, 256
local checked_targets, targets = {}, 0

local function keep(target, names)
  if #target <= LONGEST_TARGET then
    if targets == MOST_TARGETS then
      checked_targets, targets = {}, 0
    end
    checked_targets[target] = names
    targets = targets + 1
  end
end

-- The bytes of a request's body; nil if it has none. Call it once, and get the headers from the handle again after that:
-- while the script waits, Envoy makes the objects invalid that it gave.
local function body_of(handle)
  local body = handle:body()
  local length = body and body:length() or 0
  return length > 0 and body:getBytes(0, length) or nil
end

-- Refuses an ambiguous or invalid request, and tells the server which fields it names (rpc/requests/field_mask.py). The
-- body of every method is checked: the transcoder reads one even if the protos have none. Returns whether it passed, and the
-- names of the fields if there is no body.
local function check_members(handle, may_have_body, message, path_fields, query)
  local query_fields, violation = read_query(parameters_of(query), message, path_fields)
  for name, value in pairs(path_fields) do
    violation = violation or text_error({name = name, kind = "string"}, value)
  end
  local members, body = {}, nil
  if not violation then
    body = may_have_body and body_of(handle)
    if body then
      members, violation = read_body(body, message, path_fields, query_fields)
    end
  end
  if violation then
    if violation.is_too_large then
      -- gateway/replies.py adds the message.
      handle:respond({[":status"] = "413"}, "")
      return false
    elseif violation.failure then
      handle:logErr("a body could not be read: " .. violation.failure)
    end
    refuse_request(handle, violation)
    return false
  end
  for name in pairs(query_fields) do
    members[#members + 1] = name
  end
  local names = table.concat(members, ",")
  handle:headers():add("x-configsvc-members", names)
  if body and #emptied > 0 then
    handle:headers():add("x-configsvc-emptied", table.concat(emptied, ","))
  end
  return true, not body and names
end

-- Checks a request at a path of the protos. An unknown path is left to the transcoder. Returns whether it may pass.
local function check_request(handle, target, may_have_body)
  local headers = handle:headers()
  local path, query = string.match(target, "^([^?]*)(.*)$")
  local is_canonical = true
  if #path > 1 and string.sub(path, -1) == "/" then
    path = string.sub(path, 1, -2)
    headers:replace(":path", path .. query)
    is_canonical = false
  end
  local method = headers:get(":method")
  for _, route in ipairs(ROUTES[string.match(path, "^/api/v1/([%l-]+)") or ""] or {}) do
    local pattern, methods, names, messages = unpack(route)
    local captured = {string.match(path, pattern)}
    if captured[1] then
      local allowed = with_head_and_options(path, methods)
      local path_fields = {}
      for index, name in ipairs(names) do
        path_fields[name] = unescaped(captured[index])
      end
      if method == "OPTIONS" then
        handle:respond({[":status"] = "204", ["allow"] = allowed}, "")
        return false
      elseif not string.find(", " .. allowed .. ",", ", " .. method .. ",", 1, true) then
        handle:respond(
          {[":status"] = "405", ["allow"] = allowed},
          method .. " is not allowed at this path; allowed: " .. allowed)
        return false
      end
      local is_get = method == "GET"
      if method == "HEAD" then
        method = "GET"
        headers:replace(":method", method)
      end
      local has_passed, query_names = check_members(handle, may_have_body, messages[method], path_fields, query)
      if query_names and is_get and is_canonical then
        keep(target, query_names)
      end
      return has_passed
    end
  end
  return true
end

function envoy_on_request(handle)
  local kind, may_have_body = admit(handle)
  if not kind then
    return
  end
  if kind == IS_REST then
    local headers = handle:headers()
    -- The server answers such a call with the resource itself (`response_body`).
    headers:add("x-configsvc-rest", "1")
    local target = headers:get(":path")
    local names = checked_targets[target]
    if names and not may_have_body and headers:get(":method") == "GET" then
      headers:add("x-configsvc-members", names)
    elseif not check_request(handle, target, may_have_body) then
      return
    end
  end
  strip_trailers(handle)
end

-- Makes headers of what the server sent with the status. Returns whether the answer has no body.
local function complete(handle)
  local headers = handle:headers()
  if string.find(headers:get("content-type") or "", "^application/grpc") then
    return false
  end
  local code, message = headers:get("grpc-status"), headers:get("grpc-message")
  local status = headers:get("x-http-status")
  if code then
    -- The server sends the headers of an answer in the message of its status (rpc/responses/response_metadata.py).
    if code == "0" then
      for name, value in string.gmatch(message or "", "(%S-)=(%S+)") do
        if name == "x-http-status" then
          status = value
        else
          headers:replace(name, (string.gsub(value, "%^", "%%")))
        end
      end
    elseif message == SETTINGS.too_large_message then
      -- answer.lua gave it this message.
      headers:replace(":status", "413")
    end
    headers:remove("grpc-status")
    headers:remove("grpc-message")
  end
  headers:remove("grpc-accept-encoding")
  if status then
    headers:remove("x-http-status")
    if headers:get(":status") == "200" then
      headers:replace(":status", status)
      return status == "304" or status == "204"
    end
  end
  return false
end

-- A body would stay on the connection, before the next answer. The header keeps its length, as for a GET (RFC 9110, 8.6).
local function remove_body(handle)
  local body = handle:body()
  if body ~= nil then
    local length = body:length()
    body:setBytes("")
    handle:headers():replace("content-length", tostring(length))
  end
end

function envoy_on_response(handle)
  if complete(handle) then
    remove_body(handle)
  end
end

for _, called_for_each_request in ipairs({envoy_on_request, envoy_on_response, complete}) do
  jit.off(called_for_each_request)
end
