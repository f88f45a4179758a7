-- What every request passes before anything else looks at it: REST, gRPC and gRPC-Web alike. The Lua filter in
-- deploy/envoy.yaml names this file; gateway/config.py puts its text there, and its SETTINGS before it.
--
-- A worker gets the headers of these lists and no others. gRPC parses many by name (grpc-*, *-bin, te, lb-*), answers one
-- that it can't parse with an error of its own, and remembers it: where the connection's header compression has a memory,
-- the error comes back for other callers' headers.

-- Those that a worker reads (rpc/call.py), or a filter after this one. What a worker shall read is added here. One that is
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

local INVALID_ARGUMENT, UNIMPLEMENTED = "3", "12"

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
  -- A request id comes back in the answer's metadata, which takes no more than this (rpc/call.py).
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

function envoy_on_request(handle)
  local headers = handle:headers()
  local media = media_type(headers:get("content-type"))
  -- As Envoy has it; its filters then take the request for gRPC.
  local native = media == "application/grpc" or string.find(media, "^application/grpc%+") ~= nil
  local wrong, allowed = strip(headers, native)
  if native then
    headers:add("x-configsvc-native", "1")
  end
  if wrong then
    return refuse(handle, "400", INVALID_ARGUMENT, "MALFORMED_HEADER", "header " .. wrong .. ": allowed is " .. allowed)
  end
  local encoding = native and headers:get("grpc-encoding")
  if encoding and not ENCODINGS[encoding] then
    return refuse(
      handle, "415", UNIMPLEMENTED, "UNSUPPORTED_ENCODING",
      "header grpc-encoding: allowed is " .. GRPC["grpc-encoding"][3])
  end
end
