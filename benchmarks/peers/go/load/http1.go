package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// browser sends HTTP/1.1 requests, one at a time on each connection.
type browser struct {
	connections []*http1
}

type http1 struct {
	conn     net.Conn
	reader   *bufio.Reader
	requests [][]byte
	expect   []int
	next     int
}

func newBrowser(config Config) (client, error) {
	made := &browser{}
	for number := range config.InFlight {
		conn, err := net.Dial("tcp", config.Address)
		if err != nil {
			return nil, err
		}
		one := &http1{conn: conn, reader: bufio.NewReaderSize(conn, 1<<16)}
		// Connections start at different requests.
		one.next = number * len(config.Requests) / config.InFlight
		for _, request := range config.Requests {
			var text bytes.Buffer
			fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nhost: %s\r\n", request.Method, request.Path, config.Address)
			for name, value := range request.Headers {
				fmt.Fprintf(&text, "%s: %s\r\n", name, value)
			}
			if len(request.Body) > 0 {
				fmt.Fprintf(&text, "content-length: %d\r\n", len(request.Body))
			}
			text.WriteString("\r\n")
			text.Write(request.Body)
			one.requests = append(one.requests, text.Bytes())
			one.expect = append(one.expect, request.Expect)
		}
		made.connections = append(made.connections, one)
	}
	return made, nil
}

func (b *browser) run(command Command) (Result, error) {
	if command.Rate > 0 {
		return b.atRate(command)
	}
	tallies := make([]*tally, len(b.connections))
	failures := make(chan error, len(b.connections))
	began := time.Now()
	ends := began.Add(time.Duration(command.Seconds * 1e9))
	for number, connection := range b.connections {
		tallies[number] = &tally{}
		go func() {
			for {
				sent := time.Now()
				if sent.After(ends) {
					failures <- nil
					return
				}
				problem, err := connection.exchange()
				if err != nil {
					failures <- err
					return
				}
				tallies[number].add(time.Since(sent), problem)
			}
		}()
	}
	for range b.connections {
		if err := <-failures; err != nil {
			return Result{}, err
		}
	}
	return summary(tallies, time.Since(began)), nil
}

func (b *browser) atRate(command Command) (Result, error) {
	dues := make(chan time.Time, int(command.Rate*command.Seconds)+1)
	tallies := make([]*tally, len(b.connections))
	var failure error
	var once sync.Once
	var all sync.WaitGroup
	began := time.Now()
	for number, connection := range b.connections {
		tallies[number] = &tally{}
		all.Add(1)
		go func() {
			defer all.Done()
			for due := range dues {
				problem, err := connection.exchange()
				if err != nil {
					once.Do(func() { failure = err })
					return
				}
				tallies[number].add(time.Since(due), problem)
			}
		}()
	}
	pace(command.Rate, command.Seconds, func(due time.Time) { dues <- due })
	close(dues)
	all.Wait()
	return summary(tallies, time.Since(began)), failure
}

// exchange sends the next request and reads its answer. It returns what is wrong with the answer, or an error that ends
// the connection.
func (h *http1) exchange() (string, error) {
	number := h.next
	h.next = (number + 1) % len(h.requests)
	if _, err := h.conn.Write(h.requests[number]); err != nil {
		return "", err
	}
	status, err := h.line()
	if err != nil {
		return "", err
	}
	if len(status) < 12 {
		return "", fmt.Errorf("no status line: %q", status)
	}
	good, code := status[9] == '2', string(status[9:12])
	length, chunked := 0, false
	for {
		line, err := h.line()
		if err != nil {
			return "", err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return "", err
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		}
	}
	if chunked {
		length, err = h.skipChunks()
	} else {
		_, err = h.reader.Discard(length)
	}
	switch {
	case err != nil:
		return "", err
	case !good:
		return "HTTP status " + code, nil
	case h.expect[number] >= 0 && length != h.expect[number]:
		return fmt.Sprintf("%d bytes instead of %d", length, h.expect[number]), nil
	}
	return "", nil
}

func (h *http1) skipChunks() (int, error) {
	total := 0
	for {
		line, err := h.line()
		if err != nil {
			return 0, err
		}
		size, err := strconv.ParseInt(string(line), 16, 32)
		if err != nil {
			return 0, err
		}
		if _, err := h.reader.Discard(int(size) + 2); err != nil {
			return 0, err
		}
		total += int(size)
		if size == 0 {
			return total, nil
		}
	}
}

func (h *http1) line() ([]byte, error) {
	line, err := h.reader.ReadSlice('\n')
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return bytes.TrimRight(line, "\r\n"), err
}
