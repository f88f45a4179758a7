package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// So large that a server never waits for this client; the connection's window is renewed at half of it.
	ownWindow = 1 << 30
	// The protocol's default: what may be sent on a stream before the server says more.
	streamWindow = 65_535
	frameBytes   = 16_384
	prefixBytes  = 5
)

// A handler gets what arrives on one stream.
type handler interface {
	// One message, which is valid during the call.
	message(*h2conn, []byte)
	// The end; problem is empty if the gRPC status is OK.
	ended(c *h2conn, problem string)
}

type stream struct {
	handler handler
	partial []byte
	status  string
	text    string
}

// request is the encoded form of a request.
type request struct {
	header   []hpack.HeaderField
	body     []byte
	halfOpen bool
}

func newRequest(address, path string, headers map[string]string, message []byte, halfOpen bool) request {
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path},
		{Name: ":authority", Value: address}, {Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	}
	for name, value := range headers {
		fields = append(fields, hpack.HeaderField{Name: name, Value: value})
	}
	body := make([]byte, prefixBytes, prefixBytes+len(message))
	binary.BigEndian.PutUint32(body[1:], uint32(len(message)))
	return request{fields, append(body, message...), halfOpen}
}

type waiting struct {
	request request
	handler handler
}

// h2conn is one HTTP/2 connection. A goroutine reads; requests may be sent by any, also from a handler.
type h2conn struct {
	conn   net.Conn
	reader *bufio.Reader
	frames *http2.Framer

	mutex    sync.Mutex
	writer   *bufio.Writer
	encoder  *hpack.Encoder
	block    bytes.Buffer
	nextID   uint32
	window   int
	initial  int
	queue    []waiting
	streams  map[uint32]*stream
	received int

	decoder *hpack.Decoder
	current *stream
	failed  func(error)
}

func dial(address string, failed func(error)) (*h2conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	c := &h2conn{
		conn: conn, reader: bufio.NewReaderSize(conn, 1<<16), writer: bufio.NewWriterSize(conn, 1<<16),
		nextID: 1, window: streamWindow, initial: streamWindow, streams: map[uint32]*stream{}, failed: failed,
	}
	c.encoder = hpack.NewEncoder(&c.block)
	c.decoder = hpack.NewDecoder(4_096, c.field)
	c.frames = http2.NewFramer(c.writer, c.reader)
	c.frames.SetMaxReadFrameSize(1 << 24)
	c.frames.SetReuseFrames()
	if _, err := c.writer.WriteString(http2.ClientPreface); err != nil {
		return nil, err
	}
	settings := http2.Setting{ID: http2.SettingInitialWindowSize, Val: ownWindow}
	push := http2.Setting{ID: http2.SettingEnablePush, Val: 0}
	if err := c.frames.WriteSettings(push, settings); err != nil {
		return nil, err
	}
	if err := c.frames.WriteWindowUpdate(0, ownWindow-streamWindow); err != nil {
		return nil, err
	}
	if err := c.writer.Flush(); err != nil {
		return nil, err
	}
	go c.read()
	return c, nil
}

// send starts a call. The caller flushes, except in a handler: the reader flushes when it has handled all that arrived.
func (c *h2conn) send(what request, to handler) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if len(c.queue) > 0 || len(what.body) > c.window {
		c.queue = append(c.queue, waiting{what, to})
		return
	}
	c.start(what, to)
}

func (c *h2conn) flush() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if err := c.writer.Flush(); err != nil {
		c.failed(err)
	}
}

func (c *h2conn) start(what request, to handler) {
	if len(what.body) > c.initial {
		c.failed(fmt.Errorf("a request of %d bytes is larger than the stream's window", len(what.body)))
		return
	}
	id := c.nextID
	c.nextID += 2
	c.streams[id] = &stream{handler: to}
	c.window -= len(what.body)
	c.block.Reset()
	for _, field := range what.header {
		_ = c.encoder.WriteField(field)
	}
	_ = c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true})
	for parts := slices.Collect(slices.Chunk(what.body, frameBytes)); len(parts) > 0; parts = parts[1:] {
		_ = c.frames.WriteData(id, len(parts) == 1 && !what.halfOpen, parts[0])
	}
}

func (c *h2conn) read() {
	for {
		frame, err := c.frames.ReadFrame()
		if err == nil {
			err = c.handle(frame)
		}
		if err == nil && c.reader.Buffered() == 0 {
			c.mutex.Lock()
			err = c.writer.Flush()
			c.mutex.Unlock()
		}
		if err != nil {
			c.failed(err)
			return
		}
	}
}

func (c *h2conn) handle(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.HeadersFrame:
		c.current = c.stream(f.StreamID)
		return c.headers(f.StreamID, f.HeaderBlockFragment(), f.HeadersEnded(), f.StreamEnded())
	case *http2.ContinuationFrame:
		// Only trailers have been seen to need one.
		return c.headers(f.StreamID, f.HeaderBlockFragment(), f.HeadersEnded(), f.HeadersEnded())
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.mutex.Lock()
			defer c.mutex.Unlock()
			return c.frames.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.mutex.Lock()
			defer c.mutex.Unlock()
			c.window += int(f.Increment)
			c.startWaiting()
		}
	case *http2.RSTStreamFrame:
		c.end(f.StreamID, "reset: "+f.ErrCode.String())
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server sent GOAWAY: %v %s", f.ErrCode, f.DebugData())
	}
	return nil
}

func (c *h2conn) startWaiting() {
	for len(c.queue) > 0 && len(c.queue[0].request.body) <= c.window {
		c.start(c.queue[0].request, c.queue[0].handler)
		c.queue = c.queue[1:]
	}
}

func (c *h2conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if value, ok := f.Value(http2.SettingInitialWindowSize); ok {
		c.initial = int(value)
	}
	if value, ok := f.Value(http2.SettingHeaderTableSize); ok {
		c.encoder.SetMaxDynamicTableSizeLimit(value)
	}
	return c.frames.WriteSettingsAck()
}

func (c *h2conn) stream(id uint32) *stream {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.streams[id]
}

func (c *h2conn) field(field hpack.HeaderField) {
	if c.current == nil {
		return
	}
	switch field.Name {
	case "grpc-status":
		c.current.status = field.Value
	case "grpc-message":
		c.current.text = field.Value
	}
}

func (c *h2conn) headers(id uint32, block []byte, complete, last bool) error {
	if _, err := c.decoder.Write(block); err != nil {
		return err
	}
	if complete {
		if err := c.decoder.Close(); err != nil {
			return err
		}
		if last && c.current != nil {
			problem := ""
			if c.current.status != "0" {
				problem = fmt.Sprintf("gRPC status %s: %s", c.current.status, c.current.text)
			}
			c.end(id, problem)
		}
	}
	return nil
}

func (c *h2conn) end(id uint32, problem string) {
	c.mutex.Lock()
	ended := c.streams[id]
	delete(c.streams, id)
	c.mutex.Unlock()
	if ended != nil {
		ended.handler.ended(c, problem)
	}
}

func (c *h2conn) data(f *http2.DataFrame) error {
	c.received += int(f.Length)
	if c.received > ownWindow/2 {
		c.mutex.Lock()
		err := c.frames.WriteWindowUpdate(0, uint32(c.received))
		c.mutex.Unlock()
		if err != nil {
			return err
		}
		c.received = 0
	}
	to := c.stream(f.StreamID)
	if to == nil {
		return nil
	}
	data := f.Data()
	if len(to.partial) > 0 {
		to.partial = append(to.partial, data...)
		data = to.partial
	}
	for len(data) >= prefixBytes {
		end := prefixBytes + int(binary.BigEndian.Uint32(data[1:]))
		if len(data) < end {
			break
		}
		to.handler.message(c, data[prefixBytes:end])
		data = data[end:]
	}
	to.partial = append(to.partial[:0], data...)
	if f.StreamEnded() {
		c.end(f.StreamID, "the stream ended without a gRPC status")
	}
	return nil
}
