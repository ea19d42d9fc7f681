// Package e2e proves the product through Helm and pods, on a real Kubernetes node that it makes for itself.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/model-csi/model-csi/test/e2e/cluster"
	"github.com/model-csi/model-csi/test/e2e/product"
)

// env is what every scenario shares. It does not change after TestMain has set it up.
var env product.Product

func TestMain(m *testing.M) {
	os.Exit(cluster.Main(cluster.Options{Prepare: product.Build}, func(c *cluster.Cluster) int {
		env.Cluster = c
		code := 1
		if err := env.SetUp(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "set up:", err)
		} else {
			code = m.Run()
		}
		if code != 0 {
			c.PrintLogs(os.Stdout, 15)
		} else if os.Getenv(cluster.KeepLogsVariable) != "" {
			c.KeepLogs(os.Stdout)
		}
		if err := env.TearDown(); err != nil {
			fmt.Fprintln(os.Stderr, "tear down:", err)
			code = 1
		}
		return code
	}))
}
