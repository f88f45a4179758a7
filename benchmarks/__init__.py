"""Benchmarks: this service next to its alternatives, in one run on one machine (`make bench`).

Rules of every comparison:

- All sides do the same work for the same client with the same number of requests in flight, and all flush writes to disk
  before they acknowledge them. Answers are checked and errors are counted: a fast error is not a result.
- Machines are noisy. Sides take turns, one round each, and the result is the median of the rounds. Ratios are taken
  within a round, and then their median, so that a slow minute of the machine affects all sides equally.
- Most comparisons run twice: with everything of a server on one core and the load on another, and on any core.
- A peer that can't be had is named in the report.
- No test asserts a time.

    run             what a comparison has at hand
    measure         rounds, and figures from them
    placement       which cores
    goals           the goals, as ratios
    report, chart   Markdown, JSON, text; SVG and PNG
    processes       servers for the duration of a comparison
    peers           programs of the other sides, fetched and built
    targets         each operation, encoded for each server
    load            the load client, its answers checked
    bare, alone     less than a server: an engine with empty methods, storage alone, kazoo alone
    comparisons     the comparisons
"""
