package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/test/e2e/product"
)

// advice: what the command line in the plugin's pod says about a pod while it waits, fails and runs.
func advice(t *testing.T) {
	ns, files := namespace(t), newModel(83, 4<<20)
	reference := push(t, env.Public, "advice/slow", files)
	plugin := pluginPod(t)
	// says runs the command line, as kubectl exec would, until its answer has all of the words.
	says := func(words []string, argv ...string) {
		t.Helper()
		var out string
		eventually(t, strings.Join(argv, " "), func(context.Context) (err error) {
			if out, err = execute(t, plugin, append([]string{"model-csi"}, argv...)...); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for _, word := range words {
				if !strings.Contains(out, word) {
					return fmt.Errorf("it does not say %q:\n%s", word, out)
				}
			}
			return nil
		})
		t.Logf("model-csi %s\n%s", strings.Join(argv, " "), out)
	}

	// So slow that it cannot be over before it was asked about.
	env.Public.Throttle("advice/slow", 4<<10)
	pod := create(t, newPod(ns, "slow", volume(reference)))
	name := ns + "/" + pod.Name
	says([]string{"pulling: " + reference + " for pod " + name, "pulling " + reference + ": ", "% ("}, "why", name)
	says([]string{"node ", "pulling " + reference + ": "}, "status")
	env.Public.Throttle("advice/slow", 0)
	waitRunning(t, pod, limit)
	says([]string{"mounted: " + reference + " for pod " + name, fmt.Sprintf("in %d files", len(files))}, "why", name)
	says([]string{name, reference, "modelpack"}, "status")
	says([]string{"REFERENCE", reference, "modelpack"}, "cache", "ls")

	missing := env.Public.Reference("advice/slow", "nosuchtag")
	failing := create(t, newPod(ns, "failing", volume(missing)))
	waitEvent(t, failing, limit, "FailedMount", "NotFound", missing)
	says([]string{"failing: " + missing + " for pod " + ns + "/failing", "NotFound", "what to do: correct the reference"}, "why", ns+"/failing")
	says([]string{`"state": "failing"`, `"advice": "correct the reference`}, "why", ns+"/failing", "-o", "json")

	// A pod that was never asked for is an error that says where to look.
	out, err := execute(t, plugin, product.Image("").Entrypoint[0], "why", ns+"/nobody")
	if err == nil || !strings.Contains(out, "kubectl describe pod") {
		t.Errorf("why, for a pod that is not here: %v: %s", err, out)
	}
}
