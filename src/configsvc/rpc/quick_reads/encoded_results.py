"""Results of flags, encoded without the user."""

from collections import OrderedDict

from configsvc_client.evaluation import Evaluation

from configsvc.rpc import convert

# A flag has a few results. Those of the flags that are evaluated at the moment should fit.
MAX_RESULTS = 32_768
# A larger result is encoded anew each time.
RESULT_BYTES = 512


class EncodedResults:
    """The results that came first lately. A compiled flag returns the same few objects for all users."""

    def __init__(self) -> None:
        # By the identity of the result. The result is kept, so no other object can have its identity meanwhile.
        self._encoded: OrderedDict[int, tuple[Evaluation, bytes]] = OrderedDict()

    def get(self, evaluation: Evaluation) -> bytes:
        """The message of a result without its user."""
        kept = self._encoded.get(id(evaluation))
        if kept is not None:
            return kept[1]
        encoded = convert.evaluation(evaluation, "").SerializeToString()
        # The result of a flag whose value is an object is made for one caller.
        if len(encoded) <= RESULT_BYTES and not isinstance(evaluation.value, dict | list):
            self._encoded[id(evaluation)] = evaluation, encoded
            if len(self._encoded) > MAX_RESULTS:
                self._encoded.popitem(last=False)
        return encoded
