"""Each comparison: this service next to its alternatives, in one kind of work.

reads           GetConfig, EvaluateFlag, DiscoverInstances by gRPC
rest            the same by REST
batches         many keys, and many flags, in one call
writes          updates
watches         from a write to the last of many watchers
registry        register, heartbeat, discover under many instances
resources       start, memory
sizes           cost against size
in_process      one evaluation inside a Python process
group_commit    the storage alone
"""
