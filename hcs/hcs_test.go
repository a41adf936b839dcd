// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestFramesThereAndBack(t *testing.T) {
	var b bytes.Buffer
	w := NewFrameWriter(&b)
	big := bytes.Repeat([]byte("x"), MaxFrame+5)
	for _, err := range []error{w.Write(FrameStdin, []byte("hi")), w.Write(FrameCloseStdin, nil), w.Write(FrameStdout, big),
		w.WriteJSON(FrameExit, ProcessStatus{Exited: true, ExitCode: 3})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Write(FrameExit, big); !errors.Is(err, ErrFrame) {
		t.Errorf("a document over the bound: %v", err)
	}
	r := NewFrameReader(&b)
	var types []FrameType
	var size int
	for {
		typ, p, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, typ)
		size += len(p)
	}
	if want := []FrameType{FrameStdin, FrameCloseStdin, FrameStdout, FrameStdout, FrameExit}; !slices.Equal(types, want) || size < MaxFrame+7 {
		t.Errorf("got %v, %d bytes", types, size)
	}
}

func TestBadFrames(t *testing.T) {
	for name, in := range map[string]string{
		"type": "\x09\x00\x00\x00\x00\x00\x00\x00", "padding": "\x00\x01\x00\x00\x00\x00\x00\x00", "length": "\x00\x00\x00\x00\x00\x10\x00\x01",
		"header": "\x00\x00", "payload": "\x00\x00\x00\x00\x00\x00\x00\x02a",
	} {
		if _, _, err := NewFrameReader(strings.NewReader(in)).Read(); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is read is what AppendFrame writes, and reading never panics.
func FuzzFrameReader(f *testing.F) {
	f.Add(AppendFrame(AppendFrame(nil, FrameStdin, []byte("a")), FrameExit, []byte("{}")))
	f.Add([]byte("\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewFrameReader(bytes.NewReader(in))
		var out []byte
		for {
			typ, p, err := r.Read()
			if err != nil {
				break
			}
			out = AppendFrame(out, typ, p)
		}
		if !bytes.HasPrefix(in, out) {
			t.Errorf("read %x of %x", out, in)
		}
	})
}

const full = `{"Owner":"me","SchemaVersion":{"Major":2,"Minor":1},"ShouldTerminateOnLastHandleClosed":true,"Annotations":{"a":"b"},
"Container":{"Isolation":"Process","Image":"hello","InitProcess":{"ApplicationName":"/x","CommandLine":"a b","CommandArgs":["a","b"],
"User":"1:2","WorkingDirectory":"/w","Environment":{"K":"V"},"EmulateConsole":true,"ConsoleSize":[24,80],"CreateStdInPipe":true,
"CreateStdOutPipe":true,"CreateStdErrPipe":true,"RestrictedToken":true,"UseExistingLogin":true,"UseLegacyConsole":true,
"Oci":{"args":["x"],"cwd":"/","user":{"uid":1,"gid":0},"capabilities":{"bounding":["CAP_KILL"]}}},
"Oci":{"ociVersion":"1.0.0","linux":{"sysctl":{"a":"b"}}},"GuestOs":{"HostName":"h"},
"Storage":{"Layers":[{"Id":"i","Path":"/l","PathType":"AbsolutePath","Cache":"Enabled"}],"Path":"/p","QoS":{"IopsMaximum":1,"BandwidthMaximum":2}},
"MappedDirectories":[{"HostPath":"/a","HostPathType":"AbsolutePath","ContainerPath":"/b","ReadOnly":true,"SupportCloudFiles":true}],
"MappedPipes":[{"ContainerPipeName":"p","HostPath":"/s"}],"Memory":{"SizeInMB":64},"Processor":{"Count":1,"Cpus":"0"},"PidsLimit":5,
"RootReadOnly":true,"Networking":{"Namespace":"n","NetNsPath":"/n","DnsSearchList":"a","AllowUnqualifiedDnsQuery":true,
"NetworkSharedContainerName":"o","NetworkAdapters":["e"],"Endpoints":[{"Name":"e"}]},
"HvSocket":{"Config":{"ServiceTable":{}},"EnablePowerShellDirect":true},"AssignedDevices":[{"Type":"ClassGuid","LocationPath":"/dev/x"}],
"RegistryChanges":{"x":1}}}`

func TestDocumentRoundTrip(t *testing.T) {
	d, ignored, err := Decode[ComputeSystem]([]byte(full))
	if err != nil || len(ignored) > 0 {
		t.Fatalf("ignored %v, err %v", ignored, err)
	}
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := Decode[ComputeSystem](raw)
	if err != nil || !reflect.DeepEqual(d, again) {
		t.Errorf("got %s (%v)", raw, err)
	}
	var want, got any
	_ = json.Unmarshal([]byte(full), &want)
	_ = json.Unmarshal(raw, &got)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %s", raw)
	}
}

func TestDecodeNamesWhatIsWrong(t *testing.T) {
	_, ignored, err := Decode[ComputeSystem]([]byte(`{"owner":"case does not matter","Container":{"Foo":1,"Zero":0,"Memory":{"Bar":{"a":1},"SizeInMB":5},
"MappedDirectories":[{"HostPath":"/a","ContainerPath":"/b","Baz":true}]}}`))
	if want := []string{"Container.Foo", "Container.MappedDirectories[0].Baz", "Container.Memory.Bar"}; err != nil || !slices.Equal(ignored, want) {
		t.Errorf("ignored %v, want %v (%v)", ignored, want, err)
	}
	_, _, err = Decode[ComputeSystem]([]byte(`{"Container":{"Memory":{"SizeInMB":"5"}}}`))
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeInvalidJSON || e.Field != "Container.Memory.SizeInMB" {
		t.Errorf("wrong type: %+v", err)
	}
	if _, _, err = Decode[ComputeSystem]([]byte(`{`)); CodeOf(err) != CodeInvalidJSON {
		t.Errorf("no JSON: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`{"VirtualMachine":{"Devices":{"Scsi":{"0":{"Attachments":{"1":{"Path":"/x"}}}}}}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, _, err := Decode[ComputeSystem](in)
		if err != nil {
			return
		}
		raw, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Decode[ComputeSystem](raw); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	})
}

func TestSignals(t *testing.T) {
	for in, want := range map[string]Signal{`15`: 15, `"TERM"`: 15, `"SIGKILL"`: 9, `"sighup"`: 1, `"CtrlC"`: 2, `"CtrlBreak"`: 3, `"CtrlClose"`: 1,
		`"CtrlShutdown"`: 15, `"9"`: 9, `"RTMIN+3"`: 37, `"SIGRTMIN"`: 34, `"RTMAX-1"`: 63, `0`: 0} {
		var o SignalProcessOptions
		if err := json.Unmarshal([]byte(`{"Signal":`+in+`}`), &o); err != nil || o.Signal != want {
			t.Errorf("%s: got %d, %v", in, o.Signal, err)
		}
	}
	for _, in := range []string{`-1`, `65`, `"FOO"`, `"99"`, `1.5`, `"RTMIN+99"`, `""`} {
		var o SignalProcessOptions
		if err := json.Unmarshal([]byte(`{"Signal":`+in+`}`), &o); err == nil {
			t.Errorf("%s: taken for %d", in, o.Signal)
		}
	}
	for s := Signal(1); s < 32; s++ {
		if back, err := ParseSignal(s.String()); err != nil || back != s {
			t.Errorf("%d: %s %v", s, s, err)
		}
	}
}

func TestErrors(t *testing.T) {
	cause := errors.New("cause")
	e := &Error{Code: CodeSystemNotFound, Op: "start", ID: "web", Message: "not there", Err: cause}
	if e.Error() != "start web: not there: cause (0x8037010e)" || !errdefs.IsNotFound(e) || !errors.Is(e, cause) || e.HTTPStatus() != 404 {
		t.Errorf("%v", e)
	}
	r := e.Result()
	if r.Error != -2143878898 {
		t.Errorf("HRESULT %d", r.Error)
	}
	if back := FromResult(r); back.Code != e.Code || back.Error() != e.Error() {
		t.Errorf("came back as %v", back)
	}
	for code, pred := range map[Code]string{CodeSystemNotFound: "E", CodeProcessInfoNotAvailable: "E", CodeNotFound: "ES", CodeSystemAlreadyStopped: "S",
		CodeProcessAlreadyStopped: "S", CodeNotSupported: "U", CodeInvalidJSON: "U", CodeUnknownMessage: "U", CodeInvalidData: "U", CodeOperationPending: "P",
		CodeOldPending: "P", CodeOperationTimeout: "T", CodeConnectionTimeout: "T", CodeUnspecified: "", CodeInvalidState: ""} {
		err := error(&Error{Code: code})
		got := ""
		for p, f := range map[string]func(error) bool{"E": IsNotExist, "S": IsAlreadyStopped, "U": IsNotSupported, "P": IsPending, "T": IsTimeout} {
			if f(nil) {
				t.Errorf("%s(nil)", p)
			}
			if f(err) != strings.Contains(pred, p) {
				got += p
			}
		}
		if got != "" {
			t.Errorf("%s: predicates %s are wrong, want %q", code.Name(), got, pred)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for _, c := range []struct {
		add, drop []string
		n         int
		has, not  string
	}{
		{nil, nil, 14, "CAP_CHOWN", "CAP_SYS_ADMIN"},
		{[]string{"net_admin"}, []string{"CAP_CHOWN"}, 14, "CAP_NET_ADMIN", "CAP_CHOWN"},
		{nil, []string{"ALL"}, 0, "", "CAP_CHOWN"},
		{[]string{"CHOWN"}, []string{"ALL"}, 1, "CAP_CHOWN", "CAP_KILL"},
		{[]string{"ALL"}, []string{"SYS_ADMIN"}, 40, "CAP_BPF", "CAP_SYS_ADMIN"},
	} {
		s, err := Capabilities(c.add, c.drop)
		if err != nil || len(s.Bounding) != c.n || slices.Contains(s.Bounding, c.not) || c.has != "" && !slices.Contains(s.Effective, c.has) || len(s.Inheritable)+len(s.Ambient) > 0 {
			t.Errorf("+%v -%v: %v %v", c.add, c.drop, s, err)
		}
	}
	if _, err := Capabilities([]string{"FOO"}, nil); err == nil {
		t.Error("unknown capability taken")
	}
}

func TestProcessorMaximum(t *testing.T) {
	for _, c := range []struct {
		cpus float64
		host int
		want int64
	}{{1, 2, 5000}, {0.5, 2, 2500}, {1, 3, 3334}, {0.0001, 64, 1}, {9, 2, 10000}} {
		if got := ProcessorMaximum(c.cpus, c.host); got != c.want {
			t.Errorf("%v of %d CPUs: got %d, want %d", c.cpus, c.host, got, c.want)
		}
	}
}
