-- Checks a request at a path of gRPC. These have no REST, so that nothing else is done here.
--
-- The Lua filter in deploy/envoy.yaml names this file. gateway/config.py puts its text there, after admission.lua.

-- Compressed messages may be of any size when they are decompressed. The grpcio engine counts the bytes while it
-- decompresses, and the native one does not: see docs/decisions/0011-two-grpc-engines.md. A worker gives calls at paths
-- below /grpcio to the first.
local function send_to_counting_engine(headers)
  local encoding = headers:get("grpc-encoding")
  if encoding ~= nil and encoding ~= "identity" then
    headers:replace(":path", "/grpcio" .. headers:get(":path"))
  end
end

function envoy_on_request(handle)
  if admit(handle) then
    send_to_counting_engine(handle:headers())
    strip_trailers(handle)
  end
end
jit.off(envoy_on_request)
