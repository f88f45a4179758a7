package main

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"
)

// As many streams as a browser or a proxy puts on one connection.
const streamsAConnection = 100

const patience = 60 * time.Second

// watchers holds many watches of one key, and one writer of it.
type watchers struct {
	watch    Watch
	write    request
	writer   *h2conn
	failures chan error
	opened   chan struct{}
	// Changes of the current event that have not arrived; the reader that takes it to 0 tells the time.
	missing atomic.Int64
	all     chan time.Time
	written chan string
}

func newWatchers(config Config) (client, error) {
	streams := config.Watch.Streams
	w := &watchers{
		watch: *config.Watch, failures: make(chan error, 1), opened: make(chan struct{}, streams),
		all: make(chan time.Time, 1), written: make(chan string, 1),
	}
	w.write = newRequest(config.Address, config.Requests[0].Path, nil, config.Requests[0].Body, false)
	var err error
	if w.writer, err = dial(config.Address, w.failed); err != nil {
		return nil, err
	}
	what := newRequest(config.Address, w.watch.Path, nil, w.watch.Body, w.watch.HalfOpen)
	for first := 0; first < streams; first += streamsAConnection {
		conn, err := dial(config.Address, w.failed)
		if err != nil {
			return nil, err
		}
		for range min(streamsAConnection, streams-first) {
			conn.send(what, &oneWatch{all: w})
		}
		conn.flush()
	}
	for range streams {
		if err := waitFor(w, w.opened, nil); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *watchers) failed(err error) {
	select {
	case w.failures <- err:
	default:
	}
}

func (w *watchers) run(command Command) (Result, error) {
	result := Result{}
	began := time.Now()
	for range command.Events {
		w.missing.Store(int64(w.watch.Streams))
		sent := time.Now()
		w.writer.send(w.write, &oneWrite{all: w})
		w.writer.flush()
		var problem string
		if err := waitFor(w, w.written, &problem); err != nil {
			return result, err
		}
		if problem != "" {
			return result, fmt.Errorf("the write failed: %s", problem)
		}
		var last time.Time
		if err := waitFor(w, w.all, &last); err != nil {
			return result, err
		}
		result.Answers += w.watch.Streams
		result.Last = append(result.Last, float64(last.Sub(sent).Nanoseconds())/1e6)
	}
	result.Seconds = time.Since(began).Seconds()
	return result, nil
}

// waitFor receives from a channel, or returns the error of a connection.
func waitFor[T any](w *watchers, from <-chan T, into *T) error {
	select {
	case got := <-from:
		if into != nil {
			*into = got
		}
		return nil
	case err := <-w.failures:
		return err
	case <-time.After(patience):
		return fmt.Errorf("nothing in %v; %d changes are missing", patience, w.missing.Load())
	}
}

// oneWatch is one watcher: changes count only after the initial state.
type oneWatch struct {
	all    *watchers
	isOpen bool
}

func (o *oneWatch) message(_ *h2conn, data []byte) {
	if !o.isOpen {
		if hasField(data, o.all.watch.Opens) {
			o.isOpen = true
			o.all.opened <- struct{}{}
		}
		return
	}
	if !hasField(data, o.all.watch.Changes) {
		return
	}
	switch left := o.all.missing.Add(-1); {
	case left == 0:
		o.all.all <- time.Now()
	case left < 0:
		o.all.failed(fmt.Errorf("a watcher got a change twice"))
	}
}

func (o *oneWatch) ended(_ *h2conn, problem string) {
	o.all.failed(fmt.Errorf("a watch ended: %s", problem))
}

type oneWrite struct {
	all *watchers
}

func (o *oneWrite) message(*h2conn, []byte) {}

func (o *oneWrite) ended(_ *h2conn, problem string) { o.all.written <- problem }

// hasField tells whether an encoded message has a top-level field with this number.
func hasField(data []byte, number int) bool {
	for len(data) > 0 {
		tag, size := binary.Uvarint(data)
		if size <= 0 {
			return false
		}
		if int(tag>>3) == number {
			return true
		}
		data = data[size:]
		skip := 0
		switch tag & 7 {
		case 0:
			_, skip = binary.Uvarint(data)
		case 1:
			skip = 8
		case 2:
			length, size := binary.Uvarint(data)
			skip = size + int(length)
		case 5:
			skip = 4
		}
		if skip <= 0 || skip > len(data) {
			return false
		}
		data = data[skip:]
	}
	return false
}
