-- What every request passes before anything else looks at it: REST, gRPC and gRPC-Web alike. The Lua filter in
-- deploy/envoy.yaml names this file; gateway/config.py puts its text there, and SETTINGS before it:
--   hosts        names that the Host header may have; nil: any
--   origins      other sites whose pages may send requests
--   one_message  the paths of the gRPC methods whose request is one message
--
-- A worker gets the headers of these lists and no others. gRPC parses many by name (grpc-*, *-bin, te, lb-*), answers one
-- that it can't parse with an error of its own, and remembers it: where the connection's header compression has a memory,
-- the error comes back for other callers' headers.

-- Those that a worker reads (rpc/requests/request_metadata.py), or a filter after this one. What a worker shall read is added here. One that is
-- no text is refused, or goes without, where the answer is the same without it.
local REFUSE, DROP = 1, 2
local KEPT = {
  ["authorization"] = REFUSE, ["if-match"] = REFUSE, ["if-none-match"] = REFUSE, ["x-actor"] = REFUSE,
  ["accept"] = DROP, ["content-length"] = DROP, ["content-type"] = DROP,
  ["traceparent"] = DROP, ["tracestate"] = DROP, ["x-request-id"] = DROP,
  -- Envoy's own, whatever the caller sent; it finds no route without it.
  ["x-forwarded-proto"] = DROP,
}

-- Those of the gRPC protocol, each with what it has to be (PROTOCOL-HTTP2.md): a Lua pattern, and the most characters.
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

-- A field of a protobuf message that holds text or another message.
local function field(number, bytes)
  local length, size = "", #bytes
  while size > 127 do
    length = length .. string.char(size % 128 + 128)
    size = math.floor(size / 128)
  end
  return string.char(number * 8 + 2) .. length .. string.char(size) .. bytes
end

-- google.rpc.Status with one ErrorInfo.
local function status(code, message, reason)
  local info = field(1, reason) .. field(2, "configsvc")
  local detail = field(1, "type.googleapis.com/google.rpc.ErrorInfo") .. field(2, info)
  return string.char(8, tonumber(code)) .. field(2, message) .. field(3, detail)
end

-- Answers a request here. For gRPC with its code, in headers alone; for REST with the HTTP status, as JSON
-- (gateway/replies.py). The message is ASCII without a percent sign, so that it needs no encoding.
local function refuse(handle, http_status, code, reason, message)
  local headers = handle:headers()
  if headers:get("x-configsvc-native") then
    handle:respond({
      [":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = code, ["grpc-message"] = message,
      ["grpc-status-details-bin"] = handle:base64Escape(status(code, message, reason)),
    }, "")
  else
    headers:replace("x-configsvc-refused", reason)
    handle:respond({[":status"] = http_status}, message)
  end
  return true
end

local function media_type(value)
  return string.lower(string.match(value or "", "^%s*([^;%s]*)"))
end

-- Whether it is UTF-8 without control characters. An overlong form or a surrogate is let through: who reads it refuses.
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
  -- A request id comes back in the answer's metadata, which takes no more than this (rpc/requests/request_metadata.py).
  return is_text(value) and (name ~= "x-request-id" or not string.find(value, "[^\33-\126]"))
end

-- Takes away what a worker does not read. Returns the name of a header that can't be what it says, and what is allowed.
local function strip(headers, native)
  local dropped, wrong, allowed = {}, nil, nil
  for name, value in pairs(headers) do
    local rule, kept = native and GRPC[name], KEPT[name]
    if rule then
      if #value > rule[2] or not string.find(value, rule[1]) then
        wrong, allowed = name, rule[3]
      end
    elseif string.byte(name) == COLON then
      -- Envoy's own.
    elseif not kept then
      dropped[name] = true
    elseif not is_readable(name, value) then
      if kept == REFUSE then
        wrong, allowed = name, "text in UTF-8"
      else
        dropped[name] = true
      end
    end
  end
  for name in pairs(dropped) do
    headers:remove(name)
  end
  return wrong, allowed
end

-- The name in a Host header, without its port.
local function host_of(authority)
  local name = string.match(authority, "^%[[^%]]*%]") or string.match(authority, "^[^:]*")
  return string.lower((string.gsub(name, "%.$", "")))
end

-- Whether a browser sends the request for a page of another site, which is not among the origins.
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

-- What is wrong with a body's type: nothing of it is read by then.
local function wrong_type(handle, headers, media, native, encoding)
  if native then
    return media ~= "application/grpc" and media ~= "application/grpc+proto"
      and "content-type: of gRPC's, application/grpc and application/grpc+proto are read here"
  end
  local path = headers:get(":path")
  if string.find(media, "^application/grpc") or string.find(path, "^/configsvc%.v1%.") or string.find(path, "^/grpc%.") then
    return "content-type: for gRPC, allowed is application/grpc, application/grpc+proto, and the same of gRPC-Web"
  end
  local plain = encoding == nil or string.lower(encoding) == "identity"
  if not (plain and media == "application/json") and has_body(handle) then
    return media ~= "application/json" and "content-type: a body must be application/json"
      or "content-encoding: a body must not be compressed"
  end
end

-- A call that is no stream of the client has one message: a flag, a length of four bytes, and as many bytes. The server
-- would wait for what does not come. Returns what is wrong.
local function misframed(handle, compressed)
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

-- A worker reads no trailers of a request, and gRPC parses them as it does headers.
local function strip_trailers(handle)
  local trailers, names = handle:trailers(), {}
  for name in pairs(trailers or {}) do
    names[name] = true
  end
  for name in pairs(names) do
    trailers:remove(name)
  end
end

local function admit(handle)
  local headers = handle:headers()
  local method, authority = headers:get(":method"), headers:get(":authority") or ""
  local media, encoding = media_type(headers:get("content-type")), headers:get("content-encoding")
  local writes = method ~= "GET" and method ~= "HEAD" and method ~= "OPTIONS"
  local foreign = writes and is_foreign(headers, authority)
  -- A precondition that is not read here: left out, the write would happen whatever it asks.
  local dated = writes and headers:get("if-unmodified-since") ~= nil
  -- As Envoy has it; its filters then take the request for gRPC.
  local native = media == "application/grpc" or string.find(media, "^application/grpc%+") ~= nil
  local wrong, allowed = strip(headers, native)
  if native then
    headers:add("x-configsvc-native", "1")
  end
  -- One that is no text ends the server's loop: grpc.aio decodes it (1.85).
  local path = headers:get(":path") or ""
  if string.find(authority, "[^\33-\126]") or native and string.find(path, "[^\33-\126]") then
    return refuse(handle, "400", INVALID_ARGUMENT, "MALFORMED_REQUEST", "the path and the host must be printable ASCII")
  end
  if SETTINGS.hosts and not SETTINGS.hosts[host_of(authority)] then
    return refuse(
      handle, "403", PERMISSION_DENIED, "HOST_NOT_ALLOWED",
      "header host: this name is not among those that the service has; ALLOWED_HOSTS adds some")
  elseif foreign then
    return refuse(
      handle, "403", PERMISSION_DENIED, "ORIGIN_NOT_ALLOWED",
      "header origin: pages of other sites may not write here; CORS_ORIGINS names those that may")
  elseif wrong then
    return refuse(handle, "400", INVALID_ARGUMENT, "MALFORMED_HEADER", "header " .. wrong .. ": allowed is " .. allowed)
  end
  if dated then
    return refuse(
      handle, "400", INVALID_ARGUMENT, "BAD_PRECONDITION",
      "header if-unmodified-since: must not be given; a precondition here is If-Match with an etag")
  end
  local unread = wrong_type(handle, headers, media, native, encoding)
  if unread then
    return refuse(handle, "415", INVALID_ARGUMENT, "UNSUPPORTED_MEDIA_TYPE", "header " .. unread)
  elseif not native then
    return
  end
  local compression = headers:get("grpc-encoding")
  if compression and not ENCODINGS[compression] then
    return refuse(
      handle, "415", UNIMPLEMENTED, "UNSUPPORTED_ENCODING",
      "header grpc-encoding: allowed is " .. GRPC["grpc-encoding"][3])
  elseif method ~= "POST" then
    return refuse(handle, "405", INVALID_ARGUMENT, "METHOD_NOT_ALLOWED", "gRPC is POST")
  end
  headers:replace("content-type", "application/grpc")
  local misfit = SETTINGS.one_message[path] and misframed(handle, compression and compression ~= "identity")
  if misfit then
    return refuse(handle, "400", INVALID_ARGUMENT, "MALFORMED_REQUEST", misfit)
  end
end

function envoy_on_request(handle)
  if not admit(handle) then
    strip_trailers(handle)
  end
end
