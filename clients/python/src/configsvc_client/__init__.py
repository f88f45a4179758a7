"""The client package of configsvc: typed stubs in `v1`, flag evaluation in `evaluation`.

Beside them lie, as files of the package, the protos (`protos/`) and the test vectors of bucketing (`vectors/`).
"""

__version__ = "0.1.0"
