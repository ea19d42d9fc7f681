package credential_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

const canary = "canary-s3cr3t-value"

func encoded(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

func mustRef(t *testing.T, s string) model.Ref {
	t.Helper()
	ref, err := model.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// users lists the user names, in order, that a keychain has for a reference.
func users(t *testing.T, k model.Keychain, ref string) []string {
	t.Helper()
	creds, err := k.Credentials(t.Context(), mustRef(t, ref))
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, c := range creds {
		out = append(out, c.Username)
	}
	return out
}

func TestMatching(t *testing.T) {
	for _, test := range []struct {
		ref  string
		keys string
		want string
	}{
		{"registry.example.com/a/b", "registry.example.com", "registry.example.com"},
		{"registry.example.com/a/b", "https://registry.example.com", "https://registry.example.com"},
		{"registry.example.com/a/b", "http://registry.example.com/", "http://registry.example.com/"},
		{"registry.example.com/a/b", "https://registry.example.com/v2/", "https://registry.example.com/v2/"},
		{"registry.example.com/a/b", "REGISTRY.example.com", "REGISTRY.example.com"},
		{"registry.example.com/a/b", "registry.example.com/a", "registry.example.com/a"},
		{"registry.example.com/a/b", "registry.example.com/a/b", "registry.example.com/a/b"},
		{"registry.example.com/a/b", "registry.example.com/v1/a", "registry.example.com/v1/a"},
		{"registry.example.com/v1x/b", "registry.example.com/v1x", "registry.example.com/v1x"},
		{"registry.example.com/ab/c", "registry.example.com/a", ""},
		{"registry.example.com/a", "registry.example.com/a/b", ""},
		{"registry.example.com/a/b", "example.com", ""},
		{"registry.example.com/a/b", "registry.example.com:5000", ""},
		{"registry.example.com:5000/a/b", "registry.example.com", ""},
		{"registry.example.com:5000/a/b", "registry.example.com:5000", "registry.example.com:5000"},
		{"registry.example.com:5000/a/b", "*.example.com:5000", "*.example.com:5000"},
		{"registry.example.com/a/b", "*.example.com", "*.example.com"},
		{"registry.example.com/a/b", "reg*.*.com/a", "reg*.*.com/a"},
		{"x.registry.example.com/a/b", "*.example.com", ""},
		{"example.com/a/b", "*.example.com", ""},
		{"registry.example.com/a/b", "*", ""},
		{"registry.example.com/a/b", "[registry.example.com", ""},
		{"registry.example.com.evil.org/a", "registry.example.com", ""},
		{"[::1]:5000/a/b", "[::1]:5000", "[::1]:5000"},
		{"[::1]/a/b", "[::1]", "[::1]"},
		{"docker.io/library/a", "https://index.docker.io/v1/", "https://index.docker.io/v1/"},
		{"docker.io/a/b", "docker.io", "docker.io"},
		{"docker.io/a/b", "registry-1.docker.io", "registry-1.docker.io"},
		{"index.docker.io/a/b", "docker.io/a", "docker.io/a"},
		// The most specific one is first, whatever the order of the map.
		{"registry.example.com/a/b/c", "*.example.com registry.example.com registry.example.com/a registry.example.com/a/b *.*.com/a/b other.com",
			"registry.example.com/a/b registry.example.com/a registry.example.com *.example.com *.*.com/a/b"},
	} {
		t.Run(test.ref+" "+test.keys, func(t *testing.T) {
			var entries []string
			for _, key := range strings.Fields(test.keys) {
				entries = append(entries, fmt.Sprintf("%q:{\"auth\":%q}", key, encoded(strings.ReplaceAll(key, ":", ";"), "pw")))
			}
			config := `{"auths":{` + strings.Join(entries, ",") + `}}`
			k, err := credential.ForPod(map[string]string{".dockerconfigjson": config})
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(strings.Join(users(t, k, test.ref), " "), ";", ":")
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestEntries(t *testing.T) {
	for name, test := range map[string]struct {
		entry string
		want  model.Credential
		err   error
	}{
		"auth":              {`{"auth":"` + encoded("ann", "a:b") + `"}`, model.Credential{Username: "ann", Password: model.NewSecret("a:b")}, nil},
		"auth, no padding":  {`{"auth":"` + strings.TrimRight(encoded("ann", "pw"), "=") + `"}`, model.Credential{Username: "ann", Password: model.NewSecret("pw")}, nil},
		"auth, NUL bytes":   {`{"auth":"` + encoded("ann", "pw\x00\x00") + `"}`, model.Credential{Username: "ann", Password: model.NewSecret("pw")}, nil},
		"auth wins":         {`{"auth":"` + encoded("ann", "pw") + `","username":"bob","password":"x"}`, model.Credential{Username: "ann", Password: model.NewSecret("pw")}, nil},
		"user and password": {`{"username":"bob","password":"x","email":"b@example.com"}`, model.Credential{Username: "bob", Password: model.NewSecret("x")}, nil},
		"identity token":    {`{"auth":"` + encoded("<token>", "") + `","identitytoken":"id"}`, model.Credential{Username: "<token>", RefreshToken: model.NewSecret("id")}, nil},
		"registry token":    {`{"registrytoken":"reg"}`, model.Credential{AccessToken: model.NewSecret("reg")}, nil},
		"empty":             {`{}`, model.Credential{}, nil},
		"not base64":        {`{"auth":"!` + canary + `"}`, model.Credential{}, model.ErrInvalid},
		"no colon":          {`{"auth":"` + base64.StdEncoding.EncodeToString([]byte(canary)) + `"}`, model.Credential{}, model.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := credential.ForPod(map[string]string{".dockercfg": `{"registry.example.com":` + test.entry + `}`})
			if err != nil {
				t.Fatal(err)
			}
			creds, err := k.Credentials(t.Context(), mustRef(t, "registry.example.com/a"))
			if !errors.Is(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
			if err != nil {
				if strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), "registry.example.com") {
					t.Errorf("the error shows too much or too little: %v", err)
				}
				// An entry that is damaged concerns nobody else.
				if other, err := k.Credentials(t.Context(), mustRef(t, "other.example.com/a")); err != nil || len(other) != 0 {
					t.Errorf("another registry: %v, %v", other, err)
				}
				return
			}
			if test.want.IsAnonymous() {
				if len(creds) != 0 {
					t.Errorf("got %d credentials", len(creds))
				}
				return
			}
			test.want.Name = "nodePublishSecretRef"
			if len(creds) != 1 || creds[0] != test.want {
				t.Errorf("got %d credentials, first for %q", len(creds), creds[0].Username)
			}
		})
	}
}

func TestForPod(t *testing.T) {
	for name, test := range map[string]struct {
		secrets map[string]string
		want    model.Credential
		err     error
	}{
		"none":                 {nil, model.Credential{}, nil},
		"basic":                {map[string]string{"username": "ann\n", "password": "pw\r\n"}, model.Credential{Username: "ann", Password: model.NewSecret("pw")}, nil},
		"token":                {map[string]string{"token": canary + "\n"}, model.Credential{AccessToken: model.NewSecret(canary)}, nil},
		"config":               {map[string]string{".dockerconfigjson": `{"auths":{"registry.example.com":{"username":"ann","password":"pw"}}}`, "other": "x"}, model.Credential{Username: "ann", Password: model.NewSecret("pw")}, nil},
		"config without auths": {map[string]string{".dockerconfigjson": `{"credsStore":"desktop"}`}, model.Credential{}, nil},
		"user alone":           {map[string]string{"username": canary}, model.Credential{}, model.ErrInvalid},
		"password alone":       {map[string]string{"password": canary}, model.Credential{}, model.ErrInvalid},
		"empty password":       {map[string]string{"username": canary, "password": "\n"}, model.Credential{}, model.ErrInvalid},
		"all":                  {map[string]string{"username": "ann", "password": "pw", "token": canary}, model.Credential{}, model.ErrInvalid},
		"token of two lines":   {map[string]string{"token": canary + "\nx"}, model.Credential{}, model.ErrInvalid},
		"empty token":          {map[string]string{"token": ""}, model.Credential{}, model.ErrInvalid},
		"unknown":              {map[string]string{"accessKey": canary, "zzz": canary}, model.Credential{}, model.ErrInvalid},
		"not JSON":             {map[string]string{".dockerconfigjson": `{"auths":{"` + canary + `":` + canary}, model.Credential{}, model.ErrInvalid},
		"wrong type":           {map[string]string{".dockerconfigjson": `{"auths":"` + canary + `"}`}, model.Credential{}, model.ErrInvalid},
		"wrong type deep":      {map[string]string{".dockercfg": `{"x":{"auth":["` + canary + `"]}}`}, model.Credential{}, model.ErrInvalid},
		"empty config":         {map[string]string{".dockerconfigjson": ""}, model.Credential{}, model.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := credential.ForPod(test.secrets)
			if !errors.Is(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
			if err != nil {
				if strings.Contains(err.Error(), canary) {
					t.Errorf("the error shows a value: %v", err)
				}
				for key := range test.secrets {
					if !strings.Contains(err.Error(), key) {
						t.Errorf("the error does not name the key %q: %v", key, err)
					}
				}
				return
			}
			creds, err := k.Credentials(t.Context(), mustRef(t, "registry.example.com/a/b:v1"))
			if err != nil {
				t.Fatal(err)
			}
			if test.want.IsAnonymous() != (len(creds) == 0) {
				t.Fatalf("got %d credentials", len(creds))
			}
			test.want.Name = "nodePublishSecretRef"
			// A secret without a registry is meant for the one that the pod names.
			test.want.AnyRegistry = name == "basic" || name == "token"
			if len(creds) > 0 && creds[0] != test.want {
				t.Errorf("got another credential, for the user %q", creds[0].Username)
			}
			if text := fmt.Sprintf("%v %+v %#v %s", creds, creds, creds, creds); strings.Contains(text, "pw") || strings.Contains(text, canary) {
				t.Errorf("a credential prints itself: %s", text)
			}
		})
	}
}

func TestFromDockerConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	k := credential.FromDockerConfig(path)
	const ref = "registry.example.com/a"
	if got := users(t, k, ref); len(got) != 0 {
		t.Errorf("a file that is not there has %q", got)
	}
	write := func(text string) {
		t.Helper()
		next := path + ".next"
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	for _, user := range []string{"ann", "bob"} {
		write(`{"auths":{"registry.example.com":{"username":"` + user + `","password":"pw"}}}`)
		for range 2 {
			if got := users(t, k, ref); len(got) != 1 || got[0] != user {
				t.Errorf("got %q, want %q", got, user)
			}
		}
	}
	// The same size in place: the time of the change tells.
	if err := os.WriteFile(path, []byte(`{"auths":{"registry.example.com":{"username":"eve","password":"pw"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := users(t, k, ref); len(got) != 1 || got[0] != "eve" {
		t.Errorf("got %q after a change in place", got)
	}
	creds, err := k.Credentials(t.Context(), mustRef(t, ref))
	if err != nil || creds[0].String() != "node docker config" {
		t.Errorf("got %v, %v", creds, err)
	}
	for name, text := range map[string]string{"not JSON": canary, "wrong type": `{"auths":["` + canary + `"]}`, "too large": strings.Repeat(" ", 5<<20)} {
		write(text)
		_, err := k.Credentials(t.Context(), mustRef(t, ref))
		if err == nil || strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := users(t, k, ref); len(got) != 0 {
		t.Errorf("a file that is gone has %q", got)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Credentials(t.Context(), mustRef(t, ref)); err == nil {
		t.Error("a directory was read")
	}
	if got := users(t, credential.FromDockerConfig(""), ref); len(got) != 0 {
		t.Errorf("no path has %q", got)
	}
}

type broken struct{}

func (broken) Credentials(context.Context, model.Ref) ([]model.Credential, error) {
	return nil, errors.New("broken")
}

func TestChain(t *testing.T) {
	pod := func(user string) model.Keychain {
		k, err := credential.ForPod(map[string]string{"username": user, "password": "pw"})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	const ref = "registry.example.com/a"
	if got := users(t, credential.Chain(pod("ann"), nil, model.Anonymous{}, pod("bob")), ref); strings.Join(got, " ") != "ann bob" {
		t.Errorf("got %q", got)
	}
	creds, err := credential.Chain(broken{}, pod("ann"), broken{}).Credentials(t.Context(), mustRef(t, ref))
	if len(creds) != 1 || creds[0].Username != "ann" || err == nil {
		t.Errorf("got %v and %v beside two that are broken", creds, err)
	}
	if _, err := credential.Chain(model.Anonymous{}, broken{}).Credentials(t.Context(), mustRef(t, ref)); err == nil {
		t.Error("the only one is broken and nobody says so")
	}
	if got := users(t, credential.Chain(), ref); len(got) != 0 {
		t.Errorf("an empty chain has %q", got)
	}
}

func FuzzDockerConfig(f *testing.F) {
	for _, seed := range []string{
		`{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"}}}`, `{"auths":{"*.example.com/a":{"username":"u","password":"p"},"[::1]:5":{}}}`,
		`{"auths":{"":{"auth":"!"},"a:b:c/":{"identitytoken":"x"}}}`, `[]`, `{"auths":{"[a-":{"registrytoken":"x"}}}`,
	} {
		f.Add(seed, "registry.example.com", "a/b")
	}
	f.Fuzz(func(t *testing.T, config, host, repository string) {
		for _, key := range []string{".dockerconfigjson", ".dockercfg"} {
			k, err := credential.ForPod(map[string]string{key: config})
			if err != nil {
				if !errors.Is(err, model.ErrInvalid) {
					t.Fatalf("error of another kind: %v", err)
				}
				continue
			}
			creds, err := k.Credentials(t.Context(), model.Ref{Registry: host, Repository: repository})
			if err != nil && !errors.Is(err, model.ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			for _, c := range creds {
				if c.IsAnonymous() || c.Name == "" {
					t.Fatal("a credential without content or name")
				}
			}
		}
	})
}

// TestHubToken: HF_TOKEN goes to the Hub and to nobody else, and stands in no other credential's way.
func TestHubToken(t *testing.T) {
	hub, err := model.ParseRef("hf://org/name")
	if err != nil {
		t.Fatal(err)
	}
	other, err := model.ParseRef("registry.example.com/m:v1")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		secrets       map[string]string
		atHub, others []string
	}{
		"alone":             {map[string]string{"HF_TOKEN": "hf_x\n"}, []string{"hf_x"}, nil},
		"with other keys":   {map[string]string{"HF_TOKEN": "hf_x", "HF_ENDPOINT": "https://x"}, []string{"hf_x"}, nil},
		"with a password":   {map[string]string{"HF_TOKEN": "hf_x", "username": "u", "password": "p"}, []string{"hf_x", "p"}, []string{"p"}},
		"with a token":      {map[string]string{"HF_TOKEN": "hf_x", "token": "t"}, []string{"hf_x", "t"}, []string{"t"}},
		"with a dockercfg":  {map[string]string{"HF_TOKEN": "hf_x", ".dockercfg": `{"registry.example.com":{"username":"u","password":"p"}}`}, []string{"hf_x"}, []string{"p"}},
		"a token, no other": {map[string]string{"token": "t"}, []string{"t"}, []string{"t"}},
	} {
		keychain, err := credential.ForPod(test.secrets)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for ref, want := range map[model.Ref][]string{hub: test.atHub, other: test.others} {
			list, err := keychain.Credentials(t.Context(), ref)
			var got []string
			for _, c := range list {
				got = append(got, c.AccessToken.Reveal()+c.Password.Reveal())
				if hubs := c.AccessToken.Reveal() == "hf_x"; hubs && c.AnyRegistry {
					t.Errorf("%s: the Hub's token is said to be for any registry", name)
				}
			}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %s: %q, %v; want %q", name, ref, got, err, want)
			}
		}
	}
	if _, err := credential.ForPod(map[string]string{"HF_TOKEN": "a b"}); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("a token that cannot be sent: %v", err)
	}
}
