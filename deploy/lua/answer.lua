-- What a worker's gRPC core says by itself has no ErrorInfo, which everything that the service says has. The only such
-- answer that a well-formed request gets: its message, decompressed or made of JSON, is larger than the server takes. The
-- Lua filter in deploy/envoy.yaml names this file; gateway/config.py puts its text there, and SETTINGS before it:
--   too_large    google.rpc.Status in base64; too_large_message: its message

local RESOURCE_EXHAUSTED = "8"

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("grpc-status") == RESOURCE_EXHAUSTED and headers:get("grpc-status-details-bin") == nil then
    headers:add("grpc-status-details-bin", SETTINGS.too_large)
    headers:replace("grpc-message", SETTINGS.too_large_message)
    if handle:streamInfo():dynamicMetadata():get("configsvc") then
      -- REST: rest.lua.
      headers:add("x-http-status", "413")
    end
  end
end
