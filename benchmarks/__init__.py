"""Benchmarks: this service beside what a user would pick instead, in one run on one machine (`make bench`).

Rules of every comparison:

- Both sides do the same work, asked for by the same client with the same number of requests in flight, and both keep
  what they acknowledge (fsync on). What an answer must be is checked, so that a fast error is no result.
- Machines are noisy. Sides take turns, a round each, and what is shown is the median of the rounds. Ratios are taken
  within a round, and of these again the median, so that a slow minute of the machine hits both sides alike.
- No test asserts a time, and no figure is committed: whoever wants figures runs it.

    measure     rounds, and figures from them
    report      tables as text, Markdown and JSON
    processes   servers for the length of a comparison
    packages    etcd and h2load, where the machine does not have them
    load        h2load, its answers checked

    evaluation, server, fanout, group_commit, registry: the comparisons
"""
