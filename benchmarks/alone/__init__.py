"""Work without our server around it, as a process that obeys the commands of the load client (`peers/go/load`).

    group_commit    writes straight into the storage
    kazoo           ephemeral nodes by kazoo

A process of its own can be pinned like a server.
"""
