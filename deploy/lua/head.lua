-- Answers a HEAD request: as rest.lua answers the GET, but without the body.
--
-- The Lua filter in deploy/envoy.yaml names this file. gateway/config.py puts its text there, after rest.lua.

function envoy_on_response(handle)
  complete(handle)
  remove_body(handle)
end
