"""The client package of configsvc: typed stubs in `v1`, flag evaluation in `evaluation`.

The package also has, as files, the protos (`protos/`) and the test vectors of bucketing (`vectors/`).
"""

__version__ = "0.1.0"
