-- Checks every request before any other filter: REST, gRPC and gRPC-Web.
--
-- gateway/config.py puts its text before rest.lua and grpc.lua, after SETTINGS:
--   hosts        names that the Host header may have; nil: any
--   origins      other sites whose pages may send requests
--   one_message  the paths of the gRPC methods whose request is one message
--
-- A worker gets only the headers that are listed here. gRPC parses many headers by name (grpc-*, *-bin, te, lb-*). If it
-- can't parse one, it answers with an error of its own; and if the connection compresses headers, the error is repeated
-- for other callers' headers.

-- The headers that a worker (rpc/requests/request_metadata.py) or a later filter reads. A header that a worker is to read
-- must be added here. If its value is not text, the request is refused, or loses the header if the answer does not depend
-- on it.
local REFUSE, DROP = 1, 2
local FORWARDED = {
  ["authorization"] = REFUSE, ["if-match"] = REFUSE, ["if-none-match"] = REFUSE, ["x-actor"] = REFUSE,
  ["x-history"] = REFUSE,
  ["accept"] = DROP, ["content-length"] = DROP, ["content-type"] = DROP,
  ["traceparent"] = DROP, ["tracestate"] = DROP, ["x-request-id"] = DROP,
  -- Envoy sets it, whatever the caller sent, and finds no route without it.
  ["x-forwarded-proto"] = DROP,
}

-- The headers of the gRPC protocol (PROTOCOL-HTTP2.md): a Lua pattern, the most characters, and the same in words.
local GRPC = {
  ["grpc-timeout"] = {"^%d+[HMSmun]$", 9, "1 to 8 digits and a unit: H, M, S, m, u or n"},
  ["grpc-encoding"] = {"^%l+$", 16, "identity, gzip or deflate"},
  ["grpc-accept-encoding"] = {"^[%w ,_-]*$", 256, "names separated by commas"},
  ["grpc-previous-rpc-attempts"] = {"^%d+$", 9, "a number of at most 9 digits"},
  ["te"] = {"^trailers$", 8, "trailers"},
}
local ENCODINGS = {identity = true, gzip = true, deflate = true}

local COLON = string.byte(":")

local INVALID_ARGUMENT, PERMISSION_DENIED, UNIMPLEMENTED = "3", "7", "12"

-- An encoded field of a protobuf message: a string or a message.
local function field(number, bytes)
  local length, size = "", #bytes
  while size > 127 do
    length = length .. string.char(size % 128 + 128)
    size = math.floor(size / 128)
  end
  return string.char(number * 8 + 2) .. length .. string.char(size) .. bytes
end

-- An encoded google.rpc.Status with one ErrorInfo.
local function status(code, message, reason)
  local info = field(1, reason) .. field(2, "configsvc")
  local detail = field(1, "type.googleapis.com/google.rpc.ErrorInfo") .. field(2, info)
  return string.char(8, tonumber(code)) .. field(2, message) .. field(3, detail)
end

-- Answers a request with an error, which ends its script: gRPC by headers with the code, REST by the HTTP status and JSON (gateway/replies.py).
-- The message is ASCII without a percent sign, so that it needs no encoding.
local function reject(handle, is_grpc, http_status, code, reason, message)
  if is_grpc then
    handle:respond({
      [":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = code, ["grpc-message"] = message,
      ["grpc-status-details-bin"] = handle:base64Escape(status(code, message, reason)),
    }, "")
  else
    handle:headers():replace("x-configsvc-refused", reason)
    handle:respond({[":status"] = http_status}, message)
  end
end

local function media_type(value)
  if value == nil or value == "application/grpc" or value == "application/json" then
    return value or ""
  end
  return string.lower(string.match(value, "^%s*([^;%s]*)"))
end

-- Whether a value is UTF-8 without control characters. Overlong forms and surrogates pass; the worker refuses them.
local function is_text(value)
  if not string.find(value, "[^\t\32-\126]") then
    return true
  end
  local rest = string.gsub(value, "[\t\32-\126]", "")
  rest = string.gsub(rest, "[\194-\223][\128-\191]", "")
  rest = string.gsub(rest, "[\224-\239][\128-\191][\128-\191]", "")
  rest = string.gsub(rest, "[\240-\244][\128-\191][\128-\191][\128-\191]", "")
  return rest == ""
end

local function is_readable(name, value)
  -- A request id is returned in the answer's metadata, which allows no other characters (rpc/requests/request_metadata.py).
  return is_text(value) and (name ~= "x-request-id" or not string.find(value, "[^\33-\126]"))
end

-- The names that `strip` removes. It fills the list again for each request.
local dropped = {}

-- Removes the headers that a worker does not read. Returns the name of an invalid header, and what is allowed in it.
local function strip(headers, is_grpc)
  local count, invalid, allowed = 0, nil, nil
  for name, value in pairs(headers) do
    local rule, action = is_grpc and GRPC[name], FORWARDED[name]
    local is_dropped = false
    if rule then
      if #value > rule[2] or not string.find(value, rule[1]) then
        invalid, allowed = name, rule[3]
      end
    elseif string.byte(name) == COLON then
      -- A pseudo-header, which Envoy has checked.
    elseif not action then
      is_dropped = true
    elseif not is_readable(name, value) then
      if action == REFUSE then
        invalid, allowed = name, "text in UTF-8"
      else
        is_dropped = true
      end
    end
    if is_dropped then
      count = count + 1
      dropped[count] = name
    end
  end
  for index = 1, count do
    headers:remove(dropped[index])
  end
  return invalid, allowed
end

-- The name in a Host header, without its port.
local function host_of(authority)
  local name = string.match(authority, "^%[[^%]]*%]") or string.match(authority, "^[^:]*")
  return string.lower((string.gsub(name, "%.$", "")))
end

-- The last authority that was allowed. Most requests have the same one.
local allowed_authority

-- Whether a browser sends the request for a page of another site that is not among the origins.
local function is_foreign(headers, authority)
  local origin = headers:get("origin")
  if origin == nil then
    local site = headers:get("sec-fetch-site")
    return site ~= nil and site ~= "same-origin" and site ~= "none"
  end
  origin = string.lower(origin)
  return not (SETTINGS.origins["*"] or SETTINGS.origins[origin]
    or string.match(origin, "^https?://(.*)$") == string.lower(authority))
end

local function has_body(handle)
  local length = handle:headers():get("content-length")
  if length then
    return length ~= "0"
  end
  local body = handle:body()
  return body ~= nil and body:length() > 0
end

-- What is wrong with the type of a body, checked before the body is read; and whether there can be a body.
local function body_type_error(handle, path, media, is_grpc, encoding)
  if is_grpc then
    return media ~= "application/grpc" and media ~= "application/grpc+proto"
      and "content-type: for gRPC, application/grpc and application/grpc+proto are accepted"
  end
  if string.find(media, "^application/grpc") or string.find(path, "^/configsvc%.v1%.") or string.find(path, "^/grpc%.") then
    return "content-type: for gRPC, application/grpc and application/grpc+proto are accepted, and the same of gRPC-Web"
  end
  local plain = encoding == nil or string.lower(encoding) == "identity"
  if plain and media == "application/json" then
    return nil, true
  elseif has_body(handle) then
    return media ~= "application/json" and "content-type: a body must be application/json"
      or "content-encoding: a body must not be compressed"
  end
end

-- A call whose request is not a stream has one message: a flag, its length in four bytes, and as many bytes. The server
-- would wait for bytes that don't come. Returns what is wrong.
local function framing_error(handle, compressed)
  local body = handle:body()
  local length = body and body:length() or 0
  if length < 5 then
    return "the request has no message"
  end
  local flag, a, b, c, d = string.byte(body:getBytes(0, 5), 1, 5)
  if ((a * 256 + b) * 256 + c) * 256 + d ~= length - 5 then
    return "the request is not one whole message"
  elseif flag > 1 or flag == 1 and not compressed then
    return "the message's first byte must be 0, or 1 with a grpc-encoding"
  end
end

-- A worker reads no trailers of a request, but gRPC would parse them as it parses headers.
local function strip_trailers(handle)
  local trailers, names = handle:trailers(), {}
  for name in pairs(trailers or {}) do
    names[name] = true
  end
  for name in pairs(names) do
    trailers:remove(name)
  end
end

-- The calls of Envoy's objects can't be compiled. What surrounds them is faster as it is than compiled in parts.
for _, called_for_each_request in ipairs({is_text, is_readable, strip, body_type_error, strip_trailers}) do
  jit.off(called_for_each_request)
end

-- The two kinds of requests that are admitted.
local IS_GRPC, IS_REST = "gRPC", "REST"

-- Prepares the headers of a request for the worker. Returns its kind, or nil if it was refused; and whether a REST request
-- may have a body. Objects that the handle gave before are invalid afterwards if it read the body.
local function admit(handle)
  local headers = handle:headers()
  local method, authority = headers:get(":method"), headers:get(":authority") or ""
  local content_type, encoding = headers:get("content-type"), headers:get("content-encoding")
  local media = media_type(content_type)
  local writes = method ~= "GET" and method ~= "HEAD" and method ~= "OPTIONS"
  local is_foreign_write = writes and is_foreign(headers, authority)
  -- This precondition is not supported. If it were ignored, the write would happen in any case.
  local has_date_precondition = writes and headers:get("if-unmodified-since") ~= nil
  -- The rule by which Envoy's filters recognize gRPC.
  local is_grpc = media == "application/grpc" or string.find(media, "^application/grpc%+") ~= nil
  local invalid, allowed = strip(headers, is_grpc)
  local path = headers:get(":path") or ""
  -- grpc.aio (1.85) decodes both, and a byte that it can't decode ends the server's loop.
  if authority ~= allowed_authority and string.find(authority, "[^\33-\126]") or is_grpc and string.find(path, "[^\33-\126]") then
    return reject(
      handle, is_grpc, "400", INVALID_ARGUMENT, "MALFORMED_REQUEST", "the path and the host must be printable ASCII")
  elseif authority ~= allowed_authority and SETTINGS.hosts and not SETTINGS.hosts[host_of(authority)] then
    return reject(
      handle, is_grpc, "403", PERMISSION_DENIED, "HOST_NOT_ALLOWED",
      "header host: the service does not have this name; ALLOWED_HOSTS adds names")
  end
  allowed_authority = authority
  if is_foreign_write then
    return reject(
      handle, is_grpc, "403", PERMISSION_DENIED, "ORIGIN_NOT_ALLOWED",
      "header origin: pages of this site may not write here; CORS_ORIGINS names the sites that may")
  elseif invalid then
    return reject(
      handle, is_grpc, "400", INVALID_ARGUMENT, "MALFORMED_HEADER", "header " .. invalid .. ": allowed is " .. allowed)
  elseif has_date_precondition then
    return reject(
      handle, is_grpc, "400", INVALID_ARGUMENT, "BAD_PRECONDITION",
      "header if-unmodified-since: must not be given; use If-Match with an etag")
  end
  local type_error, may_have_body = body_type_error(handle, path, media, is_grpc, encoding)
  if type_error then
    return reject(handle, is_grpc, "415", INVALID_ARGUMENT, "UNSUPPORTED_MEDIA_TYPE", "header " .. type_error)
  elseif not is_grpc then
    return IS_REST, may_have_body
  end
  local compression = headers:get("grpc-encoding")
  if compression and not ENCODINGS[compression] then
    return reject(
      handle, is_grpc, "415", UNIMPLEMENTED, "UNSUPPORTED_ENCODING", "header grpc-encoding: allowed is " .. GRPC["grpc-encoding"][3])
  elseif method ~= "POST" then
    return reject(handle, is_grpc, "405", INVALID_ARGUMENT, "METHOD_NOT_ALLOWED", "gRPC needs POST")
  end
  if content_type ~= "application/grpc" then
    headers:replace("content-type", "application/grpc")
  end
  local message_error = SETTINGS.one_message[path] and framing_error(handle, compression and compression ~= "identity")
  if message_error then
    return reject(handle, is_grpc, "400", INVALID_ARGUMENT, "MALFORMED_REQUEST", message_error)
  end
  return IS_GRPC
end
jit.off(admit)
