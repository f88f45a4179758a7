-- The body of a request, by the messages of the protos: which members it may have, of which type, and which it names.
-- Stands behind json_body.lua and free_json.lua, which read the JSON, and the tables of gateway/lua_tables.py.

local after_message

-- In one list; no limit of the service is above 10,000 (MAX_BATCH_SIZE). Each takes a microsecond here, and two bytes.
local MOST_OBJECTS = 100000

local function is_integer(number, most)
  return number ~= nil and number == math.floor(number) and number >= -most - 1 and number <= most
end

local LARGEST_INT32, LARGEST_EXACT = 2147483647, 9007199254740991

local function check_number(kind, written, quoted)
  local plain = string.match(written, "^%-?%d+%.?%d*[eE]?[+-]?%d*$") and tonumber(written)
  if kind == "int32" and not is_integer(plain, LARGEST_INT32) then
    refuse("INVALID_INPUT", "must be an integer from -2147483648 to 2147483647", where())
  elseif kind == "int64" and not is_integer(plain, LARGEST_EXACT) then
    refuse("INVALID_INPUT", "must be an integer of at most 2^53-1", where())
  elseif kind == "double" and (not plain or math.abs(plain) == math.huge) then
    refuse("INVALID_INPUT", quoted and "must be a number" or "must be a number that a double can hold", where())
  end
end

-- RFC 3339, 5.6.
local function check_time(written)
  if not string.find(written, "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d[.%d]*[Z+-][%d:]*$") then
    refuse("INVALID_INPUT", "must be a time (RFC 3339), such as 2026-01-31T12:00:00Z", where())
  end
end

local EXPECTED = {
  time = "a time as a string", string = "a string", bool = "true or false", int32 = "an integer", int64 = "an integer", double = "a number",
}

-- One value of a field's type.
local function after_single(field, at, first)
  local kind = field.kind
  if kind == "message" then
    if first ~= OPEN_OBJECT then
      refuse("INVALID_INPUT", "must be an object", where())
    end
    return after_message(field.message, at)
  elseif kind == "any" then
    return after_any(at, first)
  elseif kind == "object" then
    if first ~= OPEN_OBJECT then
      refuse("INVALID_INPUT", "must be an object", where())
    end
    return after_any(at, first)
  end
  if first == OPEN_OBJECT or first == OPEN_LIST then
    refuse("INVALID_INPUT", "must be " .. EXPECTED[kind], where())
  end
  local after = after_scalar(at, first)
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
    refuse("INVALID_INPUT", "must be " .. EXPECTED[kind], where())
  end
  if kind == "time" then
    check_time(decoded(at, after, true))
  elseif kind ~= "string" and kind ~= "bool" then
    check_number(kind, is_string and decoded(at, after, true) or sub(text, at, after - 1), is_string)
  end
  return after
end

local function after_field(field, at, first)
  if field.ignored then
    return after_any(at, first)
  end
  if first == 110 and field.kind ~= "any" then
    if field.keeps and (depth > 1 or field.name == "etag") then
      refuse("INVALID_INPUT", "must not be null: leave it out to say nothing", where())
    end
    return after_scalar(at, first)
  end
  local function each(from, kind)
    if kind == 110 and field.kind ~= "any" then
      refuse("INVALID_INPUT", "must not be null", where())
    elseif field.kind == "message" and path[depth] == MOST_OBJECTS then
      depth = depth - 1
      refuse("INVALID_INPUT", "must have at most " .. MOST_OBJECTS .. " items", where())
    end
    return after_single(field, from, kind)
  end
  if field.shape == "list" then
    if first ~= OPEN_LIST then
      refuse("INVALID_INPUT", "must be a list", where())
    end
    return after_list(at, 2, each)
  elseif field.shape == "map" then
    if first ~= OPEN_OBJECT then
      refuse("INVALID_INPUT", "must be an object", where())
    end
    local seen = {}
    return after_object(at, function(name, from, kind)
      if seen[name] then
        duplicate()
      end
      seen[name] = true
      return each(from, kind)
    end)
  end
  return after_single(field, at, first)
end

local function is_empty_list(at, first)
  return first == 110 or (first == OPEN_LIST and select(2, after_space(at + 1)) == CLOSE_LIST)
end

local function note_emptied(field)
  if #emptied == MOST_EMPTIED then
    refuse("INVALID_INPUT", "must not be empty, after " .. MOST_EMPTIED .. " others: name it in update_mask", where())
  end
  emptied[#emptied + 1] = tostring(path[depth - 2]) .. ":" .. field.name
end

-- `root`: of the whole body; what its members are beside it, see `read_body`.
function after_message(message, at, root)
  local fields, seen = message.fields, {}
  return after_object(at, function(name, from, kind)
    local field = fields[name]
    if not field then
      refuse("UNKNOWN_MEMBER", "is unknown here; known are " .. message.known, where())
    elseif seen[field.name] or (root and root.elsewhere[field.name]) then
      duplicate()
    end
    seen[field.name] = true
    if field.oneof and kind ~= 110 then
      local other = seen[field.oneof]
      if other then
        refuse("INVALID_INPUT", "must not be given beside " .. other .. ": exactly one of them is", where())
      end
      seen[field.oneof] = field.name
    end
    local after = after_field(field, from, kind)
    if message.partial and not root and field.shape == "list" and is_empty_list(from, kind) then
      note_emptied(field)
    end
    if root and not field.ignored then
      root.named[#root.named + 1] = field.name
      local given = root.given[field.name]
      if given and kind == QUOTE and decoded(from, after, true) ~= given then
        refuse("INVALID_INPUT", "must be what the path says, or be left out", where())
      end
    end
    return after
  end)
end

local function read(body, message, root)
  text, path, depth, emptied, message_bytes = body, {}, 0, {}, 0
  local at, first = after_space(1)
  local after, rest
  if first == OPEN_OBJECT then
    after, rest = after_space(after_message(message, at, root))
  else
    after, rest = after_space(after_any(at, first))
  end
  if rest then
    malformed("there is something after its end", after)
  elseif first ~= OPEN_OBJECT then
    refuse("MALFORMED_REQUEST", "must be a JSON object", "body")
  end
  return root.named
end

-- The members of a body, by the protos' names; or nil and what is wrong with it. `given`: values of fields that the path
-- gives, by name; a body may only repeat them. `elsewhere`: the fields that the query has, which a body must not have.
local function read_body(body, message, given, elsewhere)
  local is_good, found = pcall(read, body, message, {named = {}, given = given, elsewhere = elsewhere})
  text, path = nil, nil
  if is_good then
    return found
  elseif type(found) == "table" then
    return nil, found
  end
  -- Envoy lets a request pass if its script fails: this one must not.
  return nil, {reason = "MALFORMED_REQUEST", field = "body", description = "can't be read", failure = tostring(found)}
end

local function is_utf8(value)
  text = value
  local is_good = pcall(function()
    local at = 1
    while at <= #value do
      local found = byte(value, at)
      at = found < 128 and at + 1 or after_character(at, found)
    end
  end)
  text = nil
  return is_good
end

-- What is wrong with the text of a field outside of a body: in the path or the query.
local function wrong_outside(field, written)
  local is_good, wrong = pcall(function()
    path, depth = {field.name}, 1
    if not is_utf8(written) then
      refuse("MALFORMED_REQUEST", "must be UTF-8", where())
    elseif field.kind == "time" then
      check_time(written)
    elseif field.kind == "bool" then
      if written ~= "true" and written ~= "false" then
        refuse("INVALID_INPUT", "must be true or false", where())
      end
    elseif field.kind ~= "string" and EXPECTED[field.kind] then
      local is_written = field.kind == "double" or string.find(written, "^%-?%d+$")
      check_number(field.kind, is_written and written or "", true)
    end
  end)
  path = nil
  return not is_good and wrong or nil
end
