"""Regular expressions, the operands of `matches`: run by RE2, which is an extra of the package."""

import importlib
from collections.abc import Callable
from typing import Any

from configsvc_client.evaluation import limits
from configsvc_client.evaluation.operands import storable

Json = Any


class RegexUnavailable(ImportError):
    """A flag has a regular expression, and RE2, which runs it, is not installed. No other engine gives the same results."""


def pattern_operand(operand: Json) -> Callable[[bytes], object]:
    """An operand of `matches`: a search in UTF-8 text that is truthy if the pattern is found anywhere.

    RE2 (github.com/google/re2/wiki/Syntax) takes time linear in the text: no look-around, no backreference.
    """
    if not isinstance(operand, str) or not operand:
        raise ValueError("must be a regular expression in RE2 syntax that is not empty")
    if not storable(operand):
        raise ValueError("must not have NUL or lone surrogates")
    if len(operand) > limits.PATTERN_CHARACTERS:
        raise ValueError(f"must be at most {limits.PATTERN_CHARACTERS} characters; it has {len(operand)}")
    re2 = _re2()
    options = re2.Options()
    options.never_capture = True  # Only whether the pattern matches is needed.
    options.log_errors = False
    options.max_mem = limits.PATTERN_BYTES
    try:
        search: Callable[[bytes], object] = re2.compile(operand, options).search
    except re2.error as error:
        detail = error.args[0] if error.args else b""
        reason = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        raise ValueError(
            f"must be a regular expression in RE2 syntax, without look-around or backreferences: {reason}"
        ) from None
    return search


def _re2() -> Any:
    # Loaded when a flag needs it: it is an extra of the package, since it has to be compiled if there is no wheel.
    try:
        return importlib.import_module("re2")
    except ImportError as error:
        raise RegexUnavailable(
            "a condition has the operator 'matches', and google-re2, which runs regular expressions, is not installed:"
            " pip install 'configsvc-client[regex]'"
        ) from error
