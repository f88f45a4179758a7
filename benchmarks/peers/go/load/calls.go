package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// caller makes unary gRPC calls.
type caller struct {
	connections []*callerConnection
	failures    chan error
}

// callerConnection counts the calls of one connection in a round; its fields belong to the connection's reader, and
// between rounds to run.
type callerConnection struct {
	conn     *h2conn
	requests []request
	expect   []int
	next     atomic.Int64
	tally    *tally
	ends     time.Time
	open     int
	idle     chan struct{}
}

func newCaller(config Config) (client, error) {
	made := &caller{failures: make(chan error, 1)}
	for number := range config.Connections {
		conn, err := dial(config.Address, made.failed)
		if err != nil {
			return nil, err
		}
		one := &callerConnection{conn: conn, idle: make(chan struct{}, config.InFlight)}
		one.next.Store(int64(number * len(config.Requests) / config.Connections))
		one.open = config.InFlight / config.Connections
		for _, r := range config.Requests {
			one.requests = append(one.requests, newRequest(config.Address, r.Path, r.Headers, r.Body, false))
			one.expect = append(one.expect, r.Expect)
		}
		made.connections = append(made.connections, one)
	}
	return made, nil
}

func (c *caller) failed(err error) {
	select {
	case c.failures <- err:
	default:
	}
}

func (c *caller) run(command Command) (Result, error) {
	if command.Rate > 0 {
		return c.atRate(command)
	}
	began := time.Now()
	tallies := make([]*tally, len(c.connections))
	calls := 0
	for number, one := range c.connections {
		tallies[number] = &tally{}
		one.tally, one.ends = tallies[number], began.Add(time.Duration(command.Seconds*1e9))
		calls += one.open
		for range one.open {
			one.conn.send(one.call(time.Now(), true))
		}
		one.conn.flush()
	}
	for _, one := range c.connections {
		for range one.open {
			if err := c.await(one.idle); err != nil {
				return Result{}, err
			}
		}
	}
	return summary(tallies, time.Since(began)), nil
}

func (c *caller) atRate(command Command) (Result, error) {
	began := time.Now()
	tallies := make([]*tally, len(c.connections))
	sent := make([]int, len(c.connections))
	total := int(command.Rate*command.Seconds) + 1
	for number, one := range c.connections {
		tallies[number] = &tally{}
		one.tally, one.ends = tallies[number], time.Time{}
		one.idle = make(chan struct{}, total)
	}
	turn := 0
	pace(command.Rate, command.Seconds, func(due time.Time) {
		one := c.connections[turn]
		sent[turn]++
		turn = (turn + 1) % len(c.connections)
		one.conn.send(one.call(due, false))
		one.conn.flush()
	})
	for number, one := range c.connections {
		for range sent[number] {
			if err := c.await(one.idle); err != nil {
				return Result{}, err
			}
		}
	}
	return summary(tallies, time.Since(began)), nil
}

func (c *caller) await(idle <-chan struct{}) error {
	select {
	case <-idle:
		return nil
	case err := <-c.failures:
		return err
	}
}

func (o *callerConnection) call(due time.Time, again bool) (request, handler) {
	number := int((o.next.Add(1) - 1) % int64(len(o.requests)))
	return o.requests[number], &oneCall{from: o, due: due, expect: o.expect[number], got: -1, again: again}
}

// oneCall is a call in flight. `again`: another call follows it until the round ends.
type oneCall struct {
	from   *callerConnection
	due    time.Time
	expect int
	got    int
	again  bool
}

func (o *oneCall) message(_ *h2conn, data []byte) { o.got = len(data) }

func (o *oneCall) ended(c *h2conn, problem string) {
	switch {
	case problem != "":
	case o.got < 0:
		problem = "no message"
	case o.expect >= 0 && o.got != o.expect:
		problem = fmt.Sprintf("%d bytes instead of %d", o.got, o.expect)
	}
	now := time.Now()
	o.from.tally.add(now.Sub(o.due), problem)
	if o.again && now.Before(o.from.ends) {
		c.send(o.from.call(now, true))
		return
	}
	o.from.idle <- struct{}{}
}
