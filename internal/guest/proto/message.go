// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package proto

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Type of a message: category and call. The response to a request has the
// request's type with another category.
type Type uint32

const (
	category = 0xf0000000
	request  = 0x10000000
	response = 0x20000000
	notice   = 0x30000000
)

// Requests. Those of the first group are of the public guest protocol, the rest ours.
const (
	Create               Type = 0x10100101
	Start                Type = 0x10100201
	ShutdownGraceful     Type = 0x10100301
	ShutdownForced       Type = 0x10100401
	ExecuteProcess       Type = 0x10100501
	WaitForProcess       Type = 0x10100601
	SignalProcess        Type = 0x10100701
	ResizeConsole        Type = 0x10100801
	GetProperties        Type = 0x10100901
	ModifySettings       Type = 0x10100a01
	NegotiateProtocol    Type = 0x10100b01
	DumpStacks           Type = 0x10100c01
	DeleteContainerState Type = 0x10100d01
	UpdateContainer      Type = 0x10100e01

	SetTime       Type = 0x10200101
	AddEntropy    Type = 0x10200201
	AddNetwork    Type = 0x10200301
	RemoveNetwork Type = 0x10200401
	Freeze        Type = 0x10200501
	Thaw          Type = 0x10200601
	Prepare       Type = 0x10200701
	CopyFile      Type = 0x10200801
)

// Notifications.
const (
	NotifyContainer     Type = 0x30100101
	NotifyProcessExited Type = 0x30200101
	NotifyOutOfMemory   Type = 0x30200201
	NotifyGoodbye       Type = 0x30200301
	NotifyPipeConnect   Type = 0x30200401
	NotifyLog           Type = 0x30200501
)

// Response is the type of a request's answer.
func (t Type) Response() Type { return t&^category | response }

// IsRequest, IsResponse and IsNotification tell the categories apart.
func (t Type) IsRequest() bool      { return t&category == request }
func (t Type) IsResponse() bool     { return t&category == response }
func (t Type) IsNotification() bool { return t&category == notice }

func (t Type) String() string { return fmt.Sprintf("%#x", uint32(t)) }

// headerSize: type, size with the header, id, little endian.
const headerSize = 16

// ErrMessage is wrapped by every error about bytes that are no message.
var ErrMessage = errors.New("malformed guest message")

// Message is one request, response or notification. A response has its request's
// ID; that of a notification is 0.
type Message struct {
	Type Type
	ID   uint64
	Body []byte // a JSON document
}

// ReadMessage reads one message. io.EOF means the stream ended between messages.
func ReadMessage(r io.Reader) (Message, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return Message{}, fmt.Errorf("%w: cut short in its header", ErrMessage)
		}
		return Message{}, err
	}
	m := Message{Type: Type(binary.LittleEndian.Uint32(h[:])), ID: binary.LittleEndian.Uint64(h[8:])}
	size := binary.LittleEndian.Uint32(h[4:])
	if size < headerSize || size > MaxMessage {
		return Message{}, fmt.Errorf("%w: type %v of %d bytes, wanted %d to %d", ErrMessage, m.Type, size, headerSize, MaxMessage)
	}
	// Memory comes with the bytes, not with what the header says.
	body, err := io.ReadAll(io.LimitReader(r, int64(size-headerSize)))
	if err != nil {
		return Message{}, err
	}
	if len(body) != int(size-headerSize) {
		return Message{}, fmt.Errorf("%w: type %v ends after %d of %d bytes", ErrMessage, m.Type, len(body)+headerSize, size)
	}
	m.Body = body
	return m, nil
}

// Bytes of a message as they go over the wire.
func (m Message) Bytes() ([]byte, error) {
	size := headerSize + len(m.Body)
	if size > MaxMessage {
		return nil, fmt.Errorf("%w: type %v of %d bytes, at most %d", ErrMessage, m.Type, size, MaxMessage)
	}
	b := make([]byte, 0, size)
	b = binary.LittleEndian.AppendUint32(b, uint32(m.Type))
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	b = binary.LittleEndian.AppendUint64(b, m.ID)
	return append(b, m.Body...), nil
}

// Encode makes a message of a document.
func Encode(t Type, id uint64, doc any) (Message, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return Message{}, err
	}
	return Message{Type: t, ID: id, Body: b}, nil
}

// Decode reads a document whose nesting is bounded.
func Decode(body []byte, doc any) error {
	if depth(body) > MaxDepth {
		return fmt.Errorf("%w: JSON deeper than %d", ErrMessage, MaxDepth)
	}
	if err := json.Unmarshal(body, doc); err != nil {
		return fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return nil
}

// depth of the brackets outside of strings. What is no JSON has any depth.
func depth(b []byte) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}
