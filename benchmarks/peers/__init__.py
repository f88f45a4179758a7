"""The programs of the other sides, and the load client: from the PATH, else fetched and built into the user's cache.

program     a program, the cache, and the error if a program can't be had
programs    each program: where it comes from
go          built by Go from a folder with a pinned `go.mod`: `load` (our client) and `etcd`
eureka      Eureka's server: jars from Maven's repository, and one class
"""

from benchmarks.peers.program import MissingError, Program
from benchmarks.peers.programs import Programs

__all__ = ["MissingError", "Program", "Programs"]
