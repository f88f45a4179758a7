// load is the client of the benchmarks: unary gRPC, HTTP/1.1 and watches, for this service and its peers alike.
//
// The first line on its standard input is a Config; it then connects and prints "ready". Each later line is a Command,
// and it answers each with one Result. So its connections stay open between rounds. It ends with its input.
//
// It checks each answer (status, gRPC status, length), and it tells the processor time that it used, so that a report
// can say if the client was the limit.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
)

// Request is one request. Requests are sent in turn.
type Request struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	// For gRPC the encoded message, without its prefix.
	Body []byte `json:"body"`
	// The length of a right answer's body (for gRPC, of its message); negative: any.
	Expect int `json:"expect"`
}

// Watch describes a watch: its messages are told apart by the number of a top-level field that they have.
type Watch struct {
	Path    string `json:"path"`
	Body    []byte `json:"body"`
	Streams int    `json:"streams"`
	// Whether the client keeps its side of the stream open.
	HalfOpen bool `json:"half_open"`
	// The field that only the message has that ends the initial state, and the one that only a change has.
	Opens   int `json:"opens"`
	Changes int `json:"changes"`
}

// Config is the work of one process.
type Config struct {
	// "grpc" or "http".
	Protocol    string    `json:"protocol"`
	Address     string    `json:"address"`
	Connections int       `json:"connections"`
	InFlight    int       `json:"in_flight"`
	Requests    []Request `json:"requests"`
	Watch       *Watch    `json:"watch"`
}

// Command asks for one round: for some seconds as many requests as possible, or `Rate` a second; or, with a watch,
// `Events` writes of the first request, one after the other.
type Command struct {
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"rate"`
	Events  int     `json:"events"`
}

// Result is the outcome of one round. Latencies are in microseconds; at a rate they count from the time at which the
// request was due, so a slow answer also delays those that had to wait for it.
type Result struct {
	Answers int     `json:"answers"`
	Errors  int     `json:"errors"`
	Error   string  `json:"error"`
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	// The share of one core that this client used.
	Busy float64 `json:"busy"`
	// For a watch: milliseconds from the request of each write until the last watcher had it.
	Last []float64 `json:"last"`
}

// A client carries out commands.
type client interface {
	run(Command) (Result, error)
}

func main() {
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	var config Config
	if err := readLine(input, &config); err != nil {
		fail(err)
	}
	made, err := newClient(config)
	if err != nil {
		fail(err)
	}
	fmt.Println("ready")
	for {
		var command Command
		if err := readLine(input, &command); err != nil {
			return
		}
		began, used := time.Now(), processorTime()
		result, err := made.run(command)
		if err != nil {
			fail(err)
		}
		result.Busy = (processorTime() - used).Seconds() / time.Since(began).Seconds()
		if err := output.Encode(result); err != nil {
			return
		}
	}
}

func newClient(config Config) (client, error) {
	switch {
	case config.Watch != nil:
		return newWatchers(config)
	case config.Protocol == "grpc":
		return newCaller(config)
	case config.Protocol == "http":
		return newBrowser(config)
	}
	return nil, fmt.Errorf("no such protocol: %q", config.Protocol)
}

func readLine(input *bufio.Reader, into any) error {
	line, err := input.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, into)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// tally is what one connection saw in a round.
type tally struct {
	took   []time.Duration
	errors int
	error  string
}

func (t *tally) add(took time.Duration, problem string) {
	if problem == "" {
		t.took = append(t.took, took)
		return
	}
	t.errors++
	if t.error == "" {
		t.error = problem
	}
}

func summary(tallies []*tally, took time.Duration) Result {
	var all []time.Duration
	result := Result{Seconds: took.Seconds()}
	for _, one := range tallies {
		all = append(all, one.took...)
		result.Errors += one.errors
		if result.Error == "" {
			result.Error = one.error
		}
	}
	result.Answers = len(all)
	if len(all) > 0 {
		slices.Sort(all)
		at := func(share float64) float64 {
			return float64(all[min(len(all)-1, int(share*float64(len(all))))].Nanoseconds()) / 1e3
		}
		result.P50, result.P99 = at(0.5), at(0.99)
	}
	return result
}
