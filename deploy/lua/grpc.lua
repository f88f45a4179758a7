-- Checks a request at a path of gRPC. These have no REST, so that nothing else is done here.
--
-- The Lua filter in deploy/envoy.yaml names this file. gateway/config.py puts its text there, after admission.lua.

function envoy_on_request(handle)
  if admit(handle) then
    strip_trailers(handle)
  end
end
