-- A JSON reader for REST bodies. It runs before the transcoder, which ignores unknown members, takes the last of two
-- members with one name, and accepts a lone surrogate. `MESSAGES` (gateway/lua_tables.py makes it from the protos) says
-- which members a body may have.
--
-- It reads the body in one pass, at a few nanoseconds a byte, because it runs on a thread that serves other requests too.
-- It loops over bytes because LuaJIT compiles such loops, but not patterns.
--
-- `skip_X(at)` checks the X that begins at byte `at`, and returns the position after it.

local byte, char, sub = string.byte, string.char, string.sub
local band, rshift = bit.band, bit.rshift

-- The deepest nesting of objects and lists. The body with the deepest value that the service accepts has 36 levels.
local MOST_NESTED = 100
-- The length to which an unknown name is cut in an error.
local MOST_NAME_BYTES = 64

local QUOTE, BACKSLASH, COMMA, COLON = 34, 92, 44, 58
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = 123, 125, 91, 93
local ESCAPED = {[34] = '"', [92] = "\\", [47] = "/", [98] = "\b", [102] = "\f", [110] = "\n", [114] = "\r", [116] = "\t"}

-- The body, and the place in it: the names and indexes of the open members.
local text, path, depth
-- A lower bound of the bytes that the part that was read takes in the transcoder's message. A number takes 11 bytes, but two
-- in JSON: the gateway and the server would spend seconds on a body of four million numbers, only to refuse the message
-- (MAX_REQUEST_BYTES).
local message_bytes
local MOST_MESSAGE_BYTES = SETTINGS.request_bytes
-- The lists that operations of a batch set to empty, as INDEX:FIELD, since a message does not show them. They are sent in a
-- header, so that their number is bounded.
local emptied
local MOST_EMPTIED = 500

local function refuse(reason, description, field)
  error({reason = reason, description = description, field = field}, 0)
end

local function too_many_bytes()
  error({is_too_large = true}, 0)
end

local function shortened(name)
  if #name > MOST_NAME_BYTES then
    -- Don't cut in the middle of a character.
    local last = MOST_NAME_BYTES
    while last > 0 and byte(name, last + 1) >= 128 and byte(name, last + 1) < 192 do
      last = last - 1
    end
    return sub(name, 1, last) .. "..."
  end
  return name
end

local function field_path()
  local text_of_path = ""
  for level = 1, depth do
    local part = path[level]
    if type(part) == "number" then
      text_of_path = text_of_path .. "[" .. part .. "]"
    else
      text_of_path = text_of_path .. (text_of_path == "" and "" or ".") .. shortened(part)
    end
  end
  return text_of_path == "" and "body" or text_of_path
end

local function malformed(description, at)
  refuse("MALFORMED_REQUEST", "must be JSON (RFC 8259): " .. description .. " at byte " .. at, "body")
end

local function skip_space(at)
  while true do
    local code = byte(text, at)
    if code ~= 32 and code ~= 10 and code ~= 13 and code ~= 9 then
      return at, code
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
      malformed("an escape is not \\uXXXX", at)
    end
  end
  return code
end

-- The position after an escape that begins at a backslash, and the code point of its character.
local function skip_escape(at)
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

-- The position after a character beyond ASCII: well-formed UTF-8, neither overlong nor a surrogate (RFC 3629).
local function skip_character(at, first)
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

-- The position after the string that begins with a quote, and whether it has escapes.
local function skip_string(at)
  local escapes = false
  at = at + 1
  while true do
    local code = byte(text, at)
    if code == QUOTE then
      return at + 1, escapes
    elseif code == BACKSLASH then
      at = skip_escape(at)
      escapes = true
    elseif not code then
      malformed("a string has no end", at)
    elseif code < 32 then
      malformed("a string has a control character that is not escaped", at)
    elseif code < 128 then
      at = at + 1
    else
      at = skip_character(at, code)
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

-- The text of the string that begins at its quote and ends before `after`.
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
      at, code = skip_escape(at)
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

local function skip_digits(at)
  local first = at
  while true do
    local code = byte(text, at)
    if not code or code < 48 or code > 57 then
      if at == first then
        malformed("a number lacks a digit", at)
      end
      return at, code
    end
    at = at + 1
  end
end

-- Whether a double can hold the number. JSON clients read a larger one as infinity or refuse it.
local function is_double(from, after)
  return math.abs(tonumber(sub(text, from, after - 1)) or math.huge) < math.huge
end

local function too_large()
  refuse("INVALID_INPUT", "must not have numbers beyond the largest double, 1.8e308", field_path())
end

-- The position after a number, and whether a double can hold it.
local function skip_number(at)
  local from, code = at, byte(text, at)
  if code == 45 then
    at = at + 1
  end
  local first = byte(text, at)
  local digits = at
  at, code = skip_digits(at)
  if first == 48 and at > digits + 1 then
    malformed("a number begins with 0", from)
  end
  local is_long = at - from > 300
  if code == 46 then
    at, code = skip_digits(at + 1)
  end
  if code == 101 or code == 69 then
    local sign = byte(text, at + 1)
    at = skip_digits((sign == 43 or sign == 45) and at + 2 or at + 1)
    is_long = true
  end
  return at, not is_long or is_double(from, at)
end

local WORDS = {[116] = "true", [102] = "false", [110] = "null"}

-- The position after a number or a word, and whether its value can be represented.
local function skip_literal(at, first)
  if first == 45 or (first and first >= 48 and first <= 57) then
    return skip_number(at)
  end
  local word = WORDS[first]
  if word then
    for offset = 2, #word do
      if byte(text, at + offset - 1) ~= byte(word, offset) then
        malformed("a word is not true, false or null", at)
      end
    end
    return at + #word, true
  end
  malformed(first and "a value is expected" or "it ends too early", at)
end

-- The position after a string, a number or a word.
local function skip_scalar(at, first)
  if first == QUOTE then
    return (skip_string(at))
  end
  local after, is_good = skip_literal(at, first)
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

-- Calls `member(name, at, first)` for each member of an object. It returns the position after the member.
local function skip_object(at, member)
  deeper()
  local first
  at, first = skip_space(at + 1)
  if first == CLOSE_OBJECT then
    depth = depth - 1
    return at + 1
  end
  while true do
    if first ~= QUOTE then
      malformed("the name of a member is expected", at)
    end
    local after, escapes = skip_string(at)
    local name = decoded(at, after, escapes)
    at, first = skip_space(after)
    if first ~= COLON then
      malformed("a colon is expected", at)
    end
    path[depth] = name
    at, first = skip_space(member(name, skip_space(at + 1)))
    if first == CLOSE_OBJECT then
      depth = depth - 1
      return at + 1
    elseif first ~= COMMA then
      malformed("a comma or the end of an object is expected", at)
    end
    at, first = skip_space(at + 1)
  end
end

-- Calls `item(at, first)` for each item of a list. An item takes at least `least_bytes` in a message.
local function skip_list(at, least_bytes, item)
  deeper()
  local first
  at, first = skip_space(at + 1)
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
    at, first = skip_space(item(at, first))
    if first == CLOSE_LIST then
      depth = depth - 1
      return at + 1
    elseif first ~= COMMA then
      malformed("a comma or the end of a list is expected", at)
    end
    at, first = skip_space(at + 1)
    index = index + 1
  end
end

local function duplicate()
  refuse("DUPLICATE_MEMBER", "must be given once", field_path())
end
