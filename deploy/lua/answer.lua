-- Adds the ErrorInfo that an error of a worker's gRPC library lacks; the service's own errors have one. A well-formed
-- request gets only one such error: its message, decompressed or made from JSON, is larger than the server accepts.
--
-- The Lua filter in deploy/envoy.yaml names this file. gateway/config.py puts its text there, after SETTINGS:
--   too_large          google.rpc.Status in base64
--   too_large_message  the message of that status

local RESOURCE_EXHAUSTED = "8"

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("grpc-status") == RESOURCE_EXHAUSTED and headers:get("grpc-status-details-bin") == nil then
    headers:add("grpc-status-details-bin", SETTINGS.too_large)
    -- For REST, rest.lua sets the HTTP status if it finds this message.
    headers:replace("grpc-message", SETTINGS.too_large_message)
  end
end
