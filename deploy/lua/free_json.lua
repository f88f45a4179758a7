-- JSON of any shape in a body, such as the value of a configuration. Its text is placed after json_body.lua.

-- For each open level: the index in a list, or -1 in an object; the start and the end of the last name in an object, and
-- whether it has escapes; all names, once there are two.
local indexes, starts, ends, escaped, names = {}, {}, {}, {}, {}

local function name_at(level)
  return decoded(starts[level], ends[level], escaped[level])
end

-- Records a name. Returns whether it is the first of its kind in the object.
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

-- Adds the open levels above `base` to the path, for an error.
local function add_to_path(base)
  for level = base + 1, depth do
    path[level] = indexes[level] >= 0 and indexes[level] or (starts[level] ~= 0 and name_at(level) or "")
  end
end

-- The states of the reader: what it expects next. Those of a number, from MINUS on, are in the order of its parts.
local VALUE, FIRST_VALUE, NAME, FIRST_NAME, IN_NAME, BEFORE_COLON, IN_STRING, AFTER = 1, 2, 3, 4, 5, 6, 7, 8
local MINUS, ZERO, INTEGER, POINT, FRACTION, EXPONENT, SIGN, EXPONENT_DIGITS = 10, 11, 12, 13, 14, 15, 16, 17

-- The state after a byte of a number; AFTER if the byte does not belong to the number.
local function in_number(state, code, at)
  if code and code >= 48 and code <= 57 then
    if state == MINUS then
      return code == 48 and ZERO or INTEGER
    elseif state == ZERO then
      malformed("a number begins with 0", at)
    end
    return (state == INTEGER and INTEGER) or (state <= FRACTION and FRACTION) or EXPONENT_DIGITS
  elseif code == 46 and (state == ZERO or state == INTEGER) then
    return POINT
  elseif (code == 101 or code == 69) and (state == ZERO or state == INTEGER or state == FRACTION) then
    return EXPONENT
  elseif (code == 43 or code == 45) and state == EXPONENT then
    return SIGN
  elseif state == MINUS or state == POINT or state == EXPONENT or state == SIGN then
    malformed("a number lacks a digit", at)
  end
  return AFTER
end

-- The position after any JSON value. Each member of an object must be unique. It is one loop over bytes, because LuaJIT
-- compiles that as a whole: with recursion and inner loops, a list of four million numbers took ten times as long.
local function skip_any(at)
  local all, base, state = text, depth, VALUE
  -- The start of the open string or number, and whether the string has escapes.
  local from, escapes = at, false
  -- An escape of six bytes may be one byte in a message.
  local size, most = message_bytes, MOST_MESSAGE_BYTES
  while true do
    local code = byte(all, at)
    if state == IN_STRING or state == IN_NAME then
      if code == QUOTE then
        at = at + 1
        size = size + 2 + (escapes and (at - from) / 6 or at - from)
        if size > most then
          too_many_bytes()
        elseif state == IN_STRING then
          state = AFTER
        elseif check_name(depth, from, at, escapes) then
          state = BEFORE_COLON
        else
          add_to_path(base)
          duplicate()
        end
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
    elseif state >= MINUS then
      local before = state
      state = in_number(state, code, at)
      if state ~= AFTER then
        at = at + 1
      elseif (before == EXPONENT_DIGITS or at - from > 300) and not is_double(from, at) then
        add_to_path(base)
        too_large()
      else
        size = size + 11
      end
    elseif state == AFTER and depth == base then
      message_bytes = size
      return at
    elseif code == 32 or code == 10 or code == 13 or code == 9 then
      at = at + 1
    elseif state == AFTER then
      local index = indexes[depth]
      if size > most then
        too_many_bytes()
      elseif code == COMMA then
        if index >= 0 then
          indexes[depth] = index + 1
          state = VALUE
        else
          state = NAME
        end
      elseif code == CLOSE_LIST and index >= 0 or code == CLOSE_OBJECT and index < 0 then
        depth = depth - 1
      else
        malformed("a comma or the end of an object or a list is expected", at)
      end
      at = at + 1
    elseif state == BEFORE_COLON then
      if code ~= COLON then
        malformed("a colon is expected", at)
      end
      state = VALUE
      at = at + 1
    elseif code == QUOTE then
      from, escapes = at, false
      state = state <= FIRST_VALUE and IN_STRING or IN_NAME
      at = at + 1
    elseif state == FIRST_VALUE and code == CLOSE_LIST or state == FIRST_NAME and code == CLOSE_OBJECT then
      depth = depth - 1
      state = AFTER
      at = at + 1
    elseif state > FIRST_VALUE then
      malformed("the name of a member is expected", at)
    elseif code == OPEN_OBJECT or code == OPEN_LIST then
      deeper()
      size = size + (depth > base + 1 and 4 or 2)
      names[depth], starts[depth] = nil, 0
      indexes[depth] = code == OPEN_LIST and 0 or -1
      state = code == OPEN_LIST and FIRST_VALUE or FIRST_NAME
      at = at + 1
    elseif code == 45 or (code and code >= 48 and code <= 57) then
      from = at
      state = code == 45 and MINUS or (code == 48 and ZERO or INTEGER)
      at = at + 1
    else
      at = skip_literal(at, code)
      size = size + (depth > base and 4 or 2)
      state = AFTER
    end
  end
end
