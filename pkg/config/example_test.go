package config_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/model-csi/model-csi/pkg/config"
)

func ExampleFlags_Config() {
	dir, err := os.MkdirTemp("", "config")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte("cache-limit: 500Gi\ncache-reserve: 15%\n"), 0o600); err != nil {
		panic(err)
	}
	fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
	flags := config.Bind(fs)
	if err := fs.Parse([]string{"--config=" + file, "--cache-reserve=20%"}); err != nil {
		panic(err)
	}
	c, err := flags.Config()
	if err != nil {
		panic(err)
	}
	fmt.Println(c.CacheLimit, c.CacheReserve, c.PullLinger)
	// Output: 500Gi 20% 10m0s
}

func ExampleBind() {
	fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
	flags := config.Bind(fs)
	if err := fs.Parse([]string{"--driver-name=models.example.com", "--node-id=worker-1"}); err != nil {
		panic(err)
	}
	c, err := flags.Config()
	if err != nil {
		panic(err)
	}
	fmt.Println(c.Endpoint)
	// Output: unix:///var/lib/kubelet/plugins/models.example.com/csi.sock
}
