-- Reads a REST body before the transcoder does, which takes unknown members for nothing, the last of two for the one that
-- counts, and a lone surrogate for text. `MESSAGES` (gateway/lua_tables.py makes it from the protos) says what a body may hold.
--
-- One pass, a few nanoseconds a byte: it runs on the gateway's own thread. Loops over bytes, since LuaJIT compiles them,
-- and not its patterns.

local byte, char, sub = string.byte, string.char, string.sub
local band, rshift = bit.band, bit.rshift

-- Of objects and lists in each other. A body of the deepest value that is accepted has 36.
local MOST_NESTED = 100
-- Of a name that no proto knows, in an error.
local MOST_NAME_BYTES = 64

local QUOTE, BACKSLASH, COMMA, COLON = 34, 92, 44, 58
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = 123, 125, 91, 93
local ESCAPED = {[34] = '"', [92] = "\\", [47] = "/", [98] = "\b", [102] = "\f", [110] = "\n", [114] = "\r", [116] = "\t"}

-- The body that is read, and where in it: names and indexes of the members that are open.
local text, path, depth
-- How many bytes what was read takes in the message that the transcoder makes of it, at least. A number takes 11 and two in
-- JSON: made into a message, a body of four million of them would hold up the gateway and the server for seconds, only
-- to be refused then (MAX_REQUEST_BYTES).
local message_bytes
local MOST_MESSAGE_BYTES = SETTINGS.request_bytes
-- Lists that operations of a batch empty, as INDEX:FIELD: a message does not show them. In one body at most so many, since
-- they travel in a header.
local emptied
local MOST_EMPTIED = 500

local function refuse(reason, description, field)
  error({reason = reason, description = description, field = field}, 0)
end

local function too_many_bytes()
  error({is_too_large = true}, 0)
end

local function shown(name)
  if #name > MOST_NAME_BYTES then
    -- Not in the middle of a character.
    local last = MOST_NAME_BYTES
    while last > 0 and byte(name, last + 1) >= 128 and byte(name, last + 1) < 192 do
      last = last - 1
    end
    return sub(name, 1, last) .. "..."
  end
  return name
end

local function where()
  local found = ""
  for level = 1, depth do
    local part = path[level]
    if type(part) == "number" then
      found = found .. "[" .. part .. "]"
    else
      found = found .. (found == "" and "" or ".") .. shown(part)
    end
  end
  return found == "" and "body" or found
end

local function malformed(description, at)
  refuse("MALFORMED_REQUEST", "must be JSON (RFC 8259): " .. description .. " at byte " .. at, "body")
end

local function after_space(at)
  while true do
    local found = byte(text, at)
    if found ~= 32 and found ~= 10 and found ~= 13 and found ~= 9 then
      return at, found
    end
    at = at + 1
  end
end

local function hexadecimal(at)
  local code = 0
  for offset = 0, 3 do
    local digit = byte(text, at + offset) or 0
    if digit >= 48 and digit <= 57 then
      code = code * 16 + digit - 48
    elseif digit >= 65 and digit <= 70 then
      code = code * 16 + digit - 55
    elseif digit >= 97 and digit <= 102 then
      code = code * 16 + digit - 87
    else
      malformed("an escape is no \\uXXXX", at)
    end
  end
  return code
end

-- The end of an escape that begins at a backslash, and its character as a number.
local function after_escape(at)
  local kind = byte(text, at + 1)
  if kind ~= 117 then
    if not ESCAPED[kind] then
      malformed("an escape is unknown", at)
    end
    return at + 2, kind
  end
  local code = hexadecimal(at + 2)
  if code >= 0xDC00 and code <= 0xDFFF then
    malformed("an escape is the second half of a pair of surrogates alone", at)
  elseif code >= 0xD800 and code <= 0xDBFF then
    if byte(text, at + 6) ~= BACKSLASH or byte(text, at + 7) ~= 117 then
      malformed("an escape is the first half of a pair of surrogates alone", at)
    end
    local second = hexadecimal(at + 8)
    if second < 0xDC00 or second > 0xDFFF then
      malformed("an escape is the first half of a pair of surrogates alone", at)
    end
    return at + 12, 0x10000 + (code - 0xD800) * 0x400 + second - 0xDC00
  end
  return at + 6, code
end

-- The end of a character beyond ASCII: well-formed UTF-8, neither overlong nor a surrogate (RFC 3629).
local function after_character(at, first)
  local second, third, fourth = byte(text, at + 1, at + 3)
  second, third, fourth = second or 0, third or 0, fourth or 0
  local low, high = 128, 191
  if first == 0xE0 then
    low = 160
  elseif first == 0xED then
    high = 159
  elseif first == 0xF0 then
    low = 144
  elseif first == 0xF4 then
    high = 143
  end
  if second >= low and second <= high then
    if first >= 0xC2 and first <= 0xDF then
      return at + 2
    end
    if first >= 0xE0 and third >= 128 and third <= 191 then
      if first <= 0xEF then
        return at + 3
      end
      if first <= 0xF4 and fourth >= 128 and fourth <= 191 then
        return at + 4
      end
    end
  end
  malformed("it is not UTF-8", at)
end

-- The end of the string that begins with a quote, and whether it has escapes.
local function after_string(at)
  local escapes = false
  at = at + 1
  while true do
    local found = byte(text, at)
    if found == QUOTE then
      return at + 1, escapes
    elseif found == BACKSLASH then
      at = after_escape(at)
      escapes = true
    elseif not found then
      malformed("a string has no end", at)
    elseif found < 32 then
      malformed("a string has a control character that is not escaped", at)
    elseif found < 128 then
      at = at + 1
    else
      at = after_character(at, found)
    end
  end
end

local name = require("string.buffer").new()

local function put_utf8(code)
  if code < 0x80 then
    name:put(char(code))
  elseif code < 0x800 then
    name:put(char(0xC0 + rshift(code, 6), 0x80 + band(code, 63)))
  elseif code < 0x10000 then
    name:put(char(0xE0 + rshift(code, 12), 0x80 + band(rshift(code, 6), 63), 0x80 + band(code, 63)))
  else
    name:put(char(
      0xF0 + rshift(code, 18), 0x80 + band(rshift(code, 12), 63), 0x80 + band(rshift(code, 6), 63),
      0x80 + band(code, 63)))
  end
end

-- The text of a string from its quote to before `after`.
local function decoded(at, after, escapes)
  if not escapes then
    return sub(text, at + 1, after - 2)
  end
  name:reset()
  local from = at + 1
  at = from
  while at < after - 1 do
    if byte(text, at) == BACKSLASH then
      name:put(sub(text, from, at - 1))
      local plain = ESCAPED[byte(text, at + 1)]
      local code
      at, code = after_escape(at)
      if plain then
        name:put(plain)
      else
        put_utf8(code)
      end
      from = at
    else
      at = at + 1
    end
  end
  name:put(sub(text, from, after - 2))
  return name:get()
end

local function after_digits(at)
  local first = at
  while true do
    local found = byte(text, at)
    if not found or found < 48 or found > 57 then
      if at == first then
        malformed("a number lacks a digit", at)
      end
      return at, found
    end
    at = at + 1
  end
end

-- Whether a double can hold the number that is written here: no JSON client keeps one that is larger.
local function is_double(from, after)
  return math.abs(tonumber(sub(text, from, after - 1)) or math.huge) < math.huge
end

local function too_large()
  refuse("INVALID_INPUT", "must not have numbers beyond 1.8e308, the largest double", where())
end

-- The end of a number, and whether a double can hold it.
local function after_number(at)
  local from, found = at, byte(text, at)
  if found == 45 then
    at = at + 1
  end
  local first = byte(text, at)
  local digits = at
  at, found = after_digits(at)
  if first == 48 and at > digits + 1 then
    malformed("a number begins with 0", from)
  end
  local is_long = at - from > 300
  if found == 46 then
    at, found = after_digits(at + 1)
  end
  if found == 101 or found == 69 then
    local sign = byte(text, at + 1)
    at = after_digits((sign == 43 or sign == 45) and at + 2 or at + 1)
    is_long = true
  end
  return at, not is_long or is_double(from, at)
end

local WORDS = {[116] = "true", [102] = "false", [110] = "null"}

-- The end of a number or a word, and whether it is one that can be kept.
local function after_literal(at, first)
  if first == 45 or (first and first >= 48 and first <= 57) then
    return after_number(at)
  end
  local word = WORDS[first]
  if word then
    for offset = 2, #word do
      if byte(text, at + offset - 1) ~= byte(word, offset) then
        malformed("a word is none of true, false and null", at)
      end
    end
    return at + #word, true
  end
  malformed(first and "a value is expected" or "it ends too early", at)
end

-- The end of a string, a number or a word.
local function after_scalar(at, first)
  if first == QUOTE then
    return (after_string(at))
  end
  local after, is_good = after_literal(at, first)
  if not is_good then
    too_large()
  end
  return after
end

local function too_deep()
  refuse("MALFORMED_REQUEST", "must not be nested more than " .. MOST_NESTED .. " deep", "body")
end

local function deeper()
  if depth >= MOST_NESTED then
    too_deep()
  end
  depth = depth + 1
end

-- Calls `member(name, at, first)` for each member of an object; it returns the member's end.
local function after_object(at, member)
  deeper()
  local first
  at, first = after_space(at + 1)
  if first == CLOSE_OBJECT then
    depth = depth - 1
    return at + 1
  end
  while true do
    if first ~= QUOTE then
      malformed("the name of a member is expected", at)
    end
    local after, escapes = after_string(at)
    local name = decoded(at, after, escapes)
    at, first = after_space(after)
    if first ~= COLON then
      malformed("a colon is expected", at)
    end
    path[depth] = name
    at, first = after_space(member(name, after_space(at + 1)))
    if first == CLOSE_OBJECT then
      depth = depth - 1
      return at + 1
    elseif first ~= COMMA then
      malformed("a comma or the end of an object is expected", at)
    end
    at, first = after_space(at + 1)
  end
end

-- `least_bytes`: of an item in a message.
local function after_list(at, least_bytes, item)
  deeper()
  local first
  at, first = after_space(at + 1)
  if first == CLOSE_LIST then
    depth = depth - 1
    return at + 1
  end
  local index = 0
  while true do
    path[depth] = index
    message_bytes = message_bytes + least_bytes
    if message_bytes > MOST_MESSAGE_BYTES then
      too_many_bytes()
    end
    at, first = after_space(item(at, first))
    if first == CLOSE_LIST then
      depth = depth - 1
      return at + 1
    elseif first ~= COMMA then
      malformed("a comma or the end of a list is expected", at)
    end
    at, first = after_space(at + 1)
    index = index + 1
  end
end

local function duplicate()
  refuse("DUPLICATE_MEMBER", "must be given once", where())
end
