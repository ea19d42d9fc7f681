// Command cluster brings up the end-to-end cluster for a person, product and registries included, and leaves it running,
// or removes it.
//
//	cluster up      bring it up, print how to reach and how to remove it
//	cluster down    remove every cluster that `up` left running
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/model-csi/model-csi/test/e2e/cluster"
	"github.com/model-csi/model-csi/test/e2e/product"
	"github.com/model-csi/model-csi/test/e2e/registry"
)

func main() {
	command := ""
	if len(os.Args) == 2 {
		command = os.Args[1]
	}
	var err error
	switch command {
	case "up":
		err = up()
	case "down":
		err = cluster.EndServed()
	case "serve": // the background half of up
		os.Exit(cluster.Main(cluster.Options{Listen: "127.0.0.1:0", Prepare: product.Build}, serve))
	default:
		err = fmt.Errorf("usage: cluster {up|down}, in the directory test/e2e")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// readyLine ends what the background half prints.
const readyLine = "ready"

func up() error {
	if err := os.MkdirAll(cluster.LogBase(), 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(cluster.LogBase(), "up.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", "serve")
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "bringing up the cluster; it reports to", log.Name())
	if err := cmd.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == readyLine {
			return nil
		}
		fmt.Println(lines.Text())
	}
	_ = cmd.Wait()
	data, _ := os.ReadFile(log.Name())
	return fmt.Errorf("the cluster did not come up:\n%s", strings.TrimSpace(string(data)))
}

func serve(c *cluster.Cluster) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	p := product.Product{Cluster: c}
	reference, err := bringUp(ctx, &p)
	if err == nil {
		fmt.Printf("kubeconfig: %s\nlogs:       %s\nmodel:      %s\nimage:      %s (imagePullPolicy: Never)\n"+
			"remove:     cd %s && go run ./cmd/cluster down\n%s\n",
			c.HostKubeconfig(), c.Logs(), reference, cluster.BusyboxName, workingDirectory(), readyLine)
		<-ctx.Done()
	}
	err = errors.Join(err, p.TearDown())
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		c.PrintLogs(os.Stderr, 15)
		return 1
	}
	return 0
}

// bringUp installs the product and packs a model for it to pull, whose reference it returns.
func bringUp(ctx context.Context, p *product.Product) (reference string, err error) {
	if err := p.SetUp(ctx); err != nil {
		return "", err
	}
	files := []registry.File{
		{Path: "config.json", Data: []byte("{\"model_type\": \"test\"}\n")},
		{Path: "model.safetensors", Data: make([]byte, 1<<20)},
	}
	if _, err := p.Public.PushModel(ctx, p.Trust, "models/tiny", "v1", files); err != nil {
		return "", err
	}
	return p.Public.Reference("models/tiny", "v1"), p.Serve()
}

func workingDirectory() string {
	dir, err := os.Getwd()
	if err != nil {
		return "test/e2e"
	}
	return dir
}
