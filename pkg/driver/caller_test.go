package driver

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

func TestCaller(t *testing.T) {
	const target = "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/model/mount"
	info := map[string]string{
		podNamespace: "ns", podName: "p", podUID: "uid-1", podServiceAccount: "sa", "reference": testReference,
	}
	known := credential.Caller{Namespace: "ns", Pod: "p", UID: "uid-1", ServiceAccount: "sa"}
	for name, test := range map[string]struct {
		target  string
		context map[string]string
		want    credential.Caller
	}{
		"kubelet's":          {target, info, known},
		"no pod info":        {target, nil, credential.Caller{}},
		"of another pod":     {strings.Replace(target, "uid-1", "uid-2", 1), info, credential.Caller{}},
		"not below pods":     {"/mnt/uid-1/volumes/x", info, credential.Caller{}},
		"a UID that is none": {target, map[string]string{podNamespace: "ns", podName: "p", podUID: ""}, credential.Caller{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := callerOf(&csi.NodePublishVolumeRequest{TargetPath: test.target, VolumeContext: test.context})
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != test.want.String() || got.UID != test.want.UID || got.ServiceAccount != test.want.ServiceAccount || len(got.Tokens) > 0 {
				t.Errorf("got %s, %s, %s", got, got.UID, got.ServiceAccount)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	secrets := map[string]string{
		"username": "ann",
		podTokens:  `{"aud":{"token":"` + canary + `","expirationTimestamp":"2026-01-01T00:00:00Z"},"":{"token":"t2"},"none":{}}`,
	}
	got, err := callerOf(&csi.NodePublishVolumeRequest{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]model.Secret{"aud": model.NewSecret(canary), "": model.NewSecret("t2")}; !maps.Equal(got.Tokens, want) {
		t.Errorf("%d tokens", len(got.Tokens))
	}
	if want := map[string]string{"username": "ann"}; !maps.Equal(got.Secrets, want) || len(secrets) != 2 {
		t.Errorf("secrets %v, and of the request %d", got.Secrets, len(secrets))
	}
	for _, text := range []string{"", canary, `{"aud":"` + canary + `"}`, `{"aud":{"token":["` + canary + `"]}}`, strings.Repeat(" ", maxTokens+1)} {
		_, err := callerOf(&csi.NodePublishVolumeRequest{Secrets: map[string]string{podTokens: text}})
		if !errors.Is(err, model.ErrInvalid) || strings.Contains(err.Error(), canary) {
			t.Errorf("%.50s: %v", text, err)
		}
	}
}

// TestMountedNeedsNoTokens: a volume that is mounted is answered with OK whatever the call brings.
func TestMountedNeedsNoTokens(t *testing.T) {
	e := newEnv(t)
	damaged := e.request()
	damaged.Secrets = map[string]string{podTokens: canary}
	wantCode(t, e.publish(damaged), codes.InvalidArgument)
	must(t, e.publish(e.request()))
	must(t, e.publish(damaged))
	if !e.mounted().Mounted {
		t.Error("the volume was taken away")
	}
}

func FuzzTokens(f *testing.F) {
	f.Add(`{"aud":{"token":"t","expirationTimestamp":"2026-01-01T00:00:00Z"}}`)
	f.Add(`{"":{}}`)
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := parseTokens(text)
		if err != nil && (!errors.Is(err, model.ErrInvalid) || len(err.Error()) > 200) {
			t.Fatalf("error of another kind, or one that repeats what it was given: %v", err)
		}
		for _, token := range tokens {
			if token.IsZero() {
				t.Fatal("a token without content")
			}
		}
	})
}
