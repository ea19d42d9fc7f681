package provider

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		reply("Image", "*.example.com", "u", "p", ""), reply("Registry", "registry.example.com:5000/a", "", "p", `,"cacheDuration":"1h30m"`),
		reply("Global", "[::1", "u", "", `,"cacheDuration":"-1h"`), `{"auth":null}`, `[]`, "", `{"kind":"CredentialProviderResponse"}{}`,
	} {
		f.Add([]byte(seed), "registry.example.com", "a/b")
	}
	f.Fuzz(func(t *testing.T, data []byte, host, repository string) {
		r, err := parseResponse(data)
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) || len(err.Error()) > 300 {
				t.Fatalf("error of another kind, or one that repeats what it was given: %v", err)
			}
			return
		}
		if r.lifetime(time.Hour) < 0 {
			t.Fatal("a negative lifetime")
		}
		logins := map[string]credential.Login{}
		for pattern, auth := range r.Auth {
			logins[pattern] = credential.Login{Username: auth.Username, Password: model.NewSecret(auth.Password)}
		}
		creds, err := credential.FromLogins("p", logins).Credentials(t.Context(), model.Ref{Registry: host, Repository: repository})
		if err != nil || len(creds) > len(r.Auth) {
			t.Fatalf("%d credentials of %d, %v", len(creds), len(r.Auth), err)
		}
		for _, c := range creds {
			if c.Name != "p" || c.AnyRegistry || c.IsAnonymous() {
				t.Fatal("a credential without content or name, or for any registry")
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	for _, seed := range []string{eks, gke, aks, head, "a: &a [*a]", head + "- name: ../x\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parse(text)
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		for _, s := range list {
			if s.Name == "" || strings.ContainsAny(s.Name, "/\x00") || s.Name == ".." || s.DefaultCacheDuration == nil || len(s.images) == 0 {
				t.Fatalf("a provider that cannot be: %+v", s)
			}
			if a := s.TokenAttributes; a != nil && (a.RequireServiceAccount == nil || a.ServiceAccountTokenAudience == "") {
				t.Fatal("attributes that cannot be")
			}
		}
	})
}
