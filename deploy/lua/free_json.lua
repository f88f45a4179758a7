-- JSON of any shape, in a body: the value of a configuration, the attributes of a context. Stands behind json_body.lua.

-- Of each level of free JSON that is open: the index in a list, or -1 in an object; where the latest name of an object is,
-- and whether it has escapes; the names before it, once there are two.
local indexes, starts, ends, escaped, names = {}, {}, {}, {}, {}

local function name_at(level)
  return decoded(starts[level], ends[level], escaped[level])
end

-- Notes a name, and that there is none like it in its object.
local function check_name(level, at, after, escapes)
  local seen = names[level]
  if starts[level] ~= 0 then
    if not seen then
      seen = {[name_at(level)] = true}
      names[level] = seen
    end
    local name = decoded(at, after, escapes)
    if seen[name] then
      starts[level], ends[level], escaped[level] = at, after, escapes
      return false
    end
    seen[name] = true
  end
  starts[level], ends[level], escaped[level] = at, after, escapes
  return true
end

-- Makes the levels of free JSON above `base` a part of the path, for an error.
local function note_path(base)
  for level = base + 1, depth do
    path[level] = indexes[level] >= 0 and indexes[level] or (starts[level] ~= 0 and name_at(level) or "")
  end
end

-- What comes next in free JSON. Those of numbers, from MINUS on, are in the order of a number's parts.
local VALUE, FIRST_VALUE, NAME, FIRST_NAME, IN_NAME, BEFORE_COLON, IN_STRING, AFTER = 1, 2, 3, 4, 5, 6, 7, 8
local MINUS, ZERO, INTEGER, POINT, FRACTION, EXPONENT, SIGN, EXPONENT_DIGITS = 10, 11, 12, 13, 14, 15, 16, 17

-- The state after a byte of a number; AFTER if it is none of it.
local function in_number(state, found, at)
  if found and found >= 48 and found <= 57 then
    if state == MINUS then
      return found == 48 and ZERO or INTEGER
    elseif state == ZERO then
      malformed("a number begins with 0", at)
    end
    return (state == INTEGER and INTEGER) or (state <= FRACTION and FRACTION) or EXPONENT_DIGITS
  elseif found == 46 and (state == ZERO or state == INTEGER) then
    return POINT
  elseif (found == 101 or found == 69) and (state == ZERO or state == INTEGER or state == FRACTION) then
    return EXPONENT
  elseif (found == 43 or found == 45) and state == EXPONENT then
    return SIGN
  elseif state == MINUS or state == POINT or state == EXPONENT or state == SIGN then
    malformed("a number lacks a digit", at)
  end
  return AFTER
end

-- Any JSON, each member of an object once. One loop over bytes, which LuaJIT compiles as a whole; calls of itself and
-- loops in it took ten times as long for a list of four million numbers.
local function after_any(at)
  local all, base, state = text, depth, VALUE
  -- Where the string or number that is open began, and whether the string has escapes.
  local from, escapes = at, false
  -- A character of six bytes with its escape may be one byte in a message.
  local size, most = message_bytes, MOST_MESSAGE_BYTES
  while true do
    local found = byte(all, at)
    if state == IN_STRING or state == IN_NAME then
      if found == QUOTE then
        at = at + 1
        size = size + 2 + (escapes and (at - from) / 6 or at - from)
        if size > most then
          too_many_bytes()
        elseif state == IN_STRING then
          state = AFTER
        elseif check_name(depth, from, at, escapes) then
          state = BEFORE_COLON
        else
          note_path(base)
          duplicate()
        end
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
    elseif state >= MINUS then
      local before = state
      state = in_number(state, found, at)
      if state ~= AFTER then
        at = at + 1
      elseif (before == EXPONENT_DIGITS or at - from > 300) and not is_double(from, at) then
        note_path(base)
        too_large()
      else
        size = size + 11
      end
    elseif state == AFTER and depth == base then
      message_bytes = size
      return at
    elseif found == 32 or found == 10 or found == 13 or found == 9 then
      at = at + 1
    elseif state == AFTER then
      local index = indexes[depth]
      if size > most then
        too_many_bytes()
      elseif found == COMMA then
        if index >= 0 then
          indexes[depth] = index + 1
          state = VALUE
        else
          state = NAME
        end
      elseif found == CLOSE_LIST and index >= 0 or found == CLOSE_OBJECT and index < 0 then
        depth = depth - 1
      else
        malformed("a comma or the end of an object or a list is expected", at)
      end
      at = at + 1
    elseif state == BEFORE_COLON then
      if found ~= COLON then
        malformed("a colon is expected", at)
      end
      state = VALUE
      at = at + 1
    elseif found == QUOTE then
      from, escapes = at, false
      state = state <= FIRST_VALUE and IN_STRING or IN_NAME
      at = at + 1
    elseif state == FIRST_VALUE and found == CLOSE_LIST or state == FIRST_NAME and found == CLOSE_OBJECT then
      depth = depth - 1
      state = AFTER
      at = at + 1
    elseif state > FIRST_VALUE then
      malformed("the name of a member is expected", at)
    elseif found == OPEN_OBJECT or found == OPEN_LIST then
      deeper()
      size = size + (depth > base + 1 and 4 or 2)
      names[depth], starts[depth] = nil, 0
      indexes[depth] = found == OPEN_LIST and 0 or -1
      state = found == OPEN_LIST and FIRST_VALUE or FIRST_NAME
      at = at + 1
    elseif found == 45 or (found and found >= 48 and found <= 57) then
      from = at
      state = found == 45 and MINUS or (found == 48 and ZERO or INTEGER)
      at = at + 1
    else
      at = after_literal(at, found)
      size = size + (depth > base and 4 or 2)
      state = AFTER
    end
  end
end
