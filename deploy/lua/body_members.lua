-- Checks the body of a request against the protos: which members it may have, and their types. Its text is placed after the
-- tables of gateway/lua_tables.py, json_body.lua and free_json.lua.

local skip_message

-- The most objects in one list. The largest limit of the service is 10,000 (MAX_BATCH_SIZE). Each object takes a
-- microsecond here, and may be two bytes.
local MOST_OBJECTS = 100000

local function is_integer(number, most)
  return number ~= nil and number == math.floor(number) and number >= -most - 1 and number <= most
end

local LARGEST_INT32, LARGEST_EXACT = 2147483647, 9007199254740991

local function check_number(kind, value, quoted)
  local number = string.match(value, "^%-?%d+%.?%d*[eE]?[+-]?%d*$") and tonumber(value)
  if kind == "int32" and not is_integer(number, LARGEST_INT32) then
    refuse("INVALID_INPUT", "must be an integer from -2147483648 to 2147483647", field_path())
  elseif kind == "int64" and not is_integer(number, LARGEST_EXACT) then
    refuse("INVALID_INPUT", "must be an integer of at most 2^53-1", field_path())
  elseif kind == "double" and (not number or math.abs(number) == math.huge) then
    refuse("INVALID_INPUT", quoted and "must be a number" or "must be a number that a double can hold", field_path())
  end
end

-- RFC 3339, 5.6.
local function check_time(value)
  if not string.find(value, "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d[.%d]*[Z+-][%d:]*$") then
    refuse("INVALID_INPUT", "must be a time (RFC 3339), such as 2026-01-31T12:00:00Z", field_path())
  end
end

local EXPECTED = {
  time = "a time as a string", string = "a string", bool = "true or false", int32 = "an integer", int64 = "an integer", double = "a number",
}

-- The position after one value of a field's type.
local function skip_single(field, at, first)
  local kind = field.kind
  if kind == "message" then
    if first ~= OPEN_OBJECT then
      refuse("INVALID_INPUT", "must be an object", field_path())
    end
    return skip_message(field.message, at)
  elseif kind == "any" then
    return skip_any(at, first)
  elseif kind == "object" then
    if first ~= OPEN_OBJECT then
      refuse("INVALID_INPUT", "must be an object", field_path())
    end
    return skip_any(at, first)
  end
  if first == OPEN_OBJECT or first == OPEN_LIST then
    refuse("INVALID_INPUT", "must be " .. EXPECTED[kind], field_path())
  end
  local after = skip_scalar(at, first)
  local is_string = first == QUOTE
  local is_word = WORDS[first] ~= nil
  local fits
  if kind == "string" or kind == "time" then
    fits = is_string
  elseif kind == "bool" then
    fits = is_word
  else
    fits = not is_word
  end
  if not fits then
    refuse("INVALID_INPUT", "must be " .. EXPECTED[kind], field_path())
  end
  if kind == "time" then
    check_time(decoded(at, after, true))
  elseif kind ~= "string" and kind ~= "bool" then
    check_number(kind, is_string and decoded(at, after, true) or sub(text, at, after - 1), is_string)
  end
  return after
end

local function skip_field(field, at, first)
  if field.ignored then
    return skip_any(at, first)
  end
  if first == 110 and field.kind ~= "any" then
    if field.keeps and (depth > 1 or field.name == "etag") then
      refuse("INVALID_INPUT", "must not be null: leave it out to keep the value", field_path())
    end
    return skip_scalar(at, first)
  end
  local function each(from, kind)
    if kind == 110 and field.kind ~= "any" then
      refuse("INVALID_INPUT", "must not be null", field_path())
    elseif field.kind == "message" and path[depth] == MOST_OBJECTS then
      depth = depth - 1
      refuse("INVALID_INPUT", "must have at most " .. MOST_OBJECTS .. " items", field_path())
    end
    return skip_single(field, from, kind)
  end
  if field.shape == "list" then
    if first ~= OPEN_LIST then
      refuse("INVALID_INPUT", "must be a list", field_path())
    end
    return skip_list(at, 2, each)
  elseif field.shape == "map" then
    if first ~= OPEN_OBJECT then
      refuse("INVALID_INPUT", "must be an object", field_path())
    end
    local seen = {}
    return skip_object(at, function(name, from, kind)
      if seen[name] then
        duplicate()
      end
      seen[name] = true
      return each(from, kind)
    end)
  end
  return skip_single(field, at, first)
end

local function is_empty_list(at, first)
  return first == 110 or (first == OPEN_LIST and select(2, skip_space(at + 1)) == CLOSE_LIST)
end

local function record_emptied(field)
  if #emptied == MOST_EMPTIED then
    refuse("INVALID_INPUT", "must not be empty: a body may empty at most " .. MOST_EMPTIED .. " lists without update_mask", field_path())
  end
  emptied[#emptied + 1] = tostring(path[depth - 2]) .. ":" .. field.name
end

-- The position after a message. `root` is given for the whole body: see `read_body`.
function skip_message(message, at, root)
  local fields, seen = message.fields, {}
  return skip_object(at, function(name, from, kind)
    local field = fields[name]
    if not field then
      refuse("UNKNOWN_MEMBER", "is unknown here; known are " .. message.known, field_path())
    elseif seen[field.name] or (root and root.query_fields[field.name]) then
      duplicate()
    end
    seen[field.name] = true
    if field.oneof and kind ~= 110 then
      local other = seen[field.oneof]
      if other then
        refuse("INVALID_INPUT", "must not be given together with " .. other .. ": give exactly one of them", field_path())
      end
      seen[field.oneof] = field.name
    end
    local after = skip_field(field, from, kind)
    if message.partial and not root and field.shape == "list" and is_empty_list(from, kind) then
      record_emptied(field)
    end
    if root and not field.ignored then
      root.named[#root.named + 1] = field.name
      local path_value = root.path_fields[field.name]
      if path_value and kind == QUOTE and decoded(from, after, true) ~= path_value then
        refuse("INVALID_INPUT", "must equal the value in the path, or be left out", field_path())
      end
    end
    return after
  end)
end

local function read(body, message, root)
  text, path, depth, emptied, message_bytes = body, {}, 0, {}, 0
  local at, first = skip_space(1)
  local after, rest
  if first == OPEN_OBJECT then
    after, rest = skip_space(skip_message(message, at, root))
  else
    after, rest = skip_space(skip_any(at, first))
  end
  if rest then
    malformed("there is text after its end", after)
  elseif first ~= OPEN_OBJECT then
    refuse("MALFORMED_REQUEST", "must be a JSON object", "body")
  end
  return root.named
end

-- The names of a body's members, as in the protos; or nil and what is wrong with it. `path_fields` are the values of the
-- fields in the path, by name: a body may only repeat them. `query_fields` are the fields in the query: a body must not
-- have them.
local function read_body(body, message, path_fields, query_fields)
  local is_good, result = pcall(read, body, message, {named = {}, path_fields = path_fields, query_fields = query_fields})
  text, path = nil, nil
  if is_good then
    return result
  elseif type(result) == "table" then
    return nil, result
  end
  -- If a script fails, Envoy lets the request pass. This request must not pass.
  return nil, {reason = "MALFORMED_REQUEST", field = "body", description = "can't be read", failure = tostring(result)}
end

local function is_utf8(value)
  text = value
  local is_good = pcall(function()
    local at = 1
    while at <= #value do
      local code = byte(value, at)
      at = code < 128 and at + 1 or skip_character(at, code)
    end
  end)
  text = nil
  return is_good
end

-- What is wrong with the text of a field in the path or the query.
local function text_error(field, value)
  local is_good, violation = pcall(function()
    path, depth = {field.name}, 1
    if not is_utf8(value) then
      refuse("MALFORMED_REQUEST", "must be UTF-8", field_path())
    elseif field.kind == "time" then
      check_time(value)
    elseif field.kind == "bool" then
      if value ~= "true" and value ~= "false" then
        refuse("INVALID_INPUT", "must be true or false", field_path())
      end
    elseif field.kind ~= "string" and EXPECTED[field.kind] then
      local is_decimal = field.kind == "double" or string.find(value, "^%-?%d+$")
      check_number(field.kind, is_decimal and value or "", true)
    end
  end)
  path = nil
  return not is_good and violation or nil
end
