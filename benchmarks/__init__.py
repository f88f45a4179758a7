"""Benchmarks: this service next to its alternatives, in one run on one machine (`make bench`).

Rules of every comparison:

- Both sides do the same work for the same client with the same number of requests in flight, and both flush writes to
  disk before they acknowledge them. Answers are checked, so that a fast error is not a result.
- Machines are noisy. Sides take turns, one round each, and the result is the median of the rounds. Ratios are taken
  within a round, and then their median, so that a slow minute of the machine affects both sides equally.
- No test asserts a time, and no figure is committed: run the benchmarks to get figures.

    measure     rounds, and figures from them
    report      tables as text, Markdown and JSON
    processes   servers for the duration of a comparison
    packages    etcd and h2load, if the machine does not have them
    load        h2load, its answers checked

    evaluation, server, fanout, group_commit, registry: the comparisons
"""
