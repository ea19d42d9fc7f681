package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// logins is the keychain of the person at the terminal: docker's config with its helpers, and the token of the Hugging Face
// Hub where its own tools keep it.
func logins() (model.Keychain, error) {
	docker, err := registry.NewLogins()
	if err != nil {
		return nil, err
	}
	return credential.Chain(hubLogin{}, docker), nil
}

// hubLogin finds the Hub's token as huggingface_hub does: HF_TOKEN, else the file that "hf auth login" writes.
type hubLogin struct{}

// Credentials implements model.Keychain.
func (hubLogin) Credentials(_ context.Context, ref model.Ref) ([]model.Credential, error) {
	if ref.Scheme != model.SchemeHub {
		return nil, nil
	}
	if token := strings.TrimSpace(os.Getenv("HF_TOKEN")); token != "" {
		return []model.Credential{{Name: "HF_TOKEN", AccessToken: model.NewSecret(token)}}, nil
	}
	file := hubTokenFile()
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("token of the Hugging Face Hub: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return nil, nil
	}
	return []model.Credential{{Name: "token in " + file, AccessToken: model.NewSecret(token)}}, nil
}

func hubTokenFile() string {
	if file := os.Getenv("HF_TOKEN_PATH"); file != "" {
		return file
	}
	home := os.Getenv("HF_HOME")
	if home == "" {
		cache, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		home = filepath.Join(cache, ".cache", "huggingface")
	}
	return filepath.Join(home, "token")
}
